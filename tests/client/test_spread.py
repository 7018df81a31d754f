"""Lines of one client find different gateways where there are some, and settle for what there is."""

from __future__ import annotations

import itertools

from tests.client.conftest import Log, StartClient
from tests.client.gateway import InProcessGateway
from tests.client.waiting import until
from tunnels.client.spread import MAX_TRIES, Spread
from tunnels.protocol import ErrorCode


async def test_two_lines_are_on_two_gateways(gateway: InProcessGateway, start_client: StartClient, log: Log) -> None:
    gateway.names = itertools.chain(["gw-1"] * MAX_TRIES, itertools.repeat("gw-2"))
    start_client("1=127.0.0.1:1", connections="2")
    await gateway.wait_for_session(2)
    names = [session.endpoint.instance for session in gateway.live]
    assert sorted(names) == ["gw-1", "gw-2"]
    declined = [session for session in gateway.sessions if session not in gateway.live]
    assert len(declined) == MAX_TRIES - 1
    assert all(session.client is None for session in declined), "nothing was said to those"
    assert not log.find("warning", "gw-1")


async def test_with_one_gateway_both_lines_are_on_it_after_a_few_attempts(
    gateway: InProcessGateway, start_client: StartClient
) -> None:
    gateway.names = itertools.repeat("gw-1")
    start_client("1=127.0.0.1:1", connections="2")
    await gateway.wait_for_session(2)
    assert len(gateway.requests) == 2 + MAX_TRIES


async def test_a_line_whose_gateway_stops_avoids_those_of_the_others(
    gateway: InProcessGateway, start_client: StartClient
) -> None:
    gateway.names = iter(["gw-1", "gw-2", "gw-2", "gw-2", "gw-3"])
    start_client("1=127.0.0.1:1", connections="2")
    await gateway.wait_for_session(2)
    (first,) = [session for session in gateway.live if session.endpoint.instance == "gw-1"]
    first.endpoint.announce_end(ErrorCode.SHUTDOWN, 20, "rolling update")
    await until(lambda: {s.endpoint.instance for s in gateway.live} >= {"gw-2", "gw-3"}, "the third gateway")
    assert len(gateway.requests) == 5


def test_a_line_may_come_back_to_the_gateway_it_was_on() -> None:
    spread = Spread()
    assert spread.wants("line", "gw-1")
    assert spread.wants("line", "gw-1")
    assert not spread.wants("another", "gw-1")
    spread.leave("line")
    assert spread.wants("another", "gw-1")


def test_the_attempts_of_a_line_are_counted_anew_when_it_has_settled() -> None:
    spread = Spread()
    assert spread.wants("line", "gw-1")
    for _ in range(2):
        assert [spread.wants("another", "gw-1") for _ in range(MAX_TRIES + 1)] == [False] * MAX_TRIES + [True]
        spread.leave("another")
