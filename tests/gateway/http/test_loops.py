"""uvloop, which gateways run on, keeps the promises that hang on a loop: pacing, half-closes, resets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from . import test_back_pressure as back_pressure
from . import test_failures as failures
from . import test_keep_alive as keep_alive
from . import test_responses as responses
from . import test_switching as switching
from .line import Line, open_line

PROMISES: list[Callable[[Line], Awaitable[None]]] = [
    back_pressure.test_an_application_that_does_not_read_stops_its_upstream,
    back_pressure.test_an_upstream_that_does_not_read_stops_its_application,
    back_pressure.test_a_pipelining_application_is_not_read_while_a_request_is_under_way,
    failures.test_a_refused_upload_gets_its_page_though_it_goes_on_sending,
    failures.test_a_session_lost_in_a_response_resets_the_application,
    keep_alive.test_one_upstream_connection_serves_all_requests_of_a_host,
    keep_alive.test_drain_closes_an_idle_connection,
    keep_alive.test_abort_resets_a_response_under_way,
    responses.test_an_upstream_reset_in_the_middle_resets_the_application,
    responses.test_an_application_that_half_closes_gets_its_response,
    switching.test_a_websocket_passes,
    switching.test_after_101_each_direction_ends_by_itself,
    switching.test_the_upstream_may_end_first,
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__.removeprefix("test_"))
def test_on_uvloop(promise: Callable[[Line], Awaitable[None]]) -> None:
    async def keep() -> None:
        async with open_line() as line:
            await promise(line)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(keep())


async def test_a_connection_that_is_drained_or_aborted_before_it_is_made_closes_at_once(line: Line) -> None:
    for end in ("drain", "abort"):
        make = line.make_connection

        def make_ended(end: str = end, make: Callable[[], object] = make) -> object:
            connection = make()
            getattr(connection, end)()
            return connection

        line.make_connection = make_ended  # type: ignore[method-assign, assignment]
        app = await line.connect()
        assert await app.read_all() == b""
        line.make_connection = make  # type: ignore[method-assign]
