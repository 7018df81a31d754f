"""A line is kept for ever: it comes back by itself, and slowly where a person has to act first."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.client.conftest import Log, RunningClient, StartClient, StartService
from tests.client.gateway import TOKEN, InProcessGateway, ask, echo
from tests.client.waiting import until
from tunnels.client.backoff import Backoff
from tunnels.client.line import Line
from tunnels.endpoint import Timing
from tunnels.protocol import SUBPROTOCOL, ErrorCode, Exposure, Target


async def test_the_client_says_who_it_is_and_which_protocol_it_speaks(
    gateway: InProcessGateway, start_client: StartClient, log: Log
) -> None:
    start_client("1=127.0.0.1:1")
    session = await gateway.wait_for_session()
    (request,) = gateway.requests
    assert request.path == b"/acmeco/prod"
    assert request.headers["Sec-WebSocket-Protocol"] == SUBPROTOCOL
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert session.client is not None
    assert re.fullmatch(r"moorline/\d+\.\d+\.\d+ \(\w+\)", session.client.agent)
    assert len(session.client.instance) == 32
    assert log.find("info", "connected: tunnel acmeco/prod on gateway gw-1")


async def test_a_client_keeps_as_many_sessions_as_it_was_told_and_one_identity(
    gateway: InProcessGateway, start_client: StartClient
) -> None:
    start_client("1=127.0.0.1:1", connections="3")
    await gateway.wait_for_session(3)
    assert len({session.client.instance for session in gateway.live if session.client}) == 1


async def test_the_client_is_back_by_itself_after_the_gateway_was_killed(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log
) -> None:
    service = await start_service(echo)
    start_client(f"1={service.address}")
    await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(1)))
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    await gateway.kill()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.read(), 5)
    await log.wait_for("warning", f"not connected: 127.0.0.1:{gateway.port} refuses the connection", "next attempt in")
    await gateway.start(port=gateway.port)
    await gateway.wait_for_session()
    assert await ask(gateway.listen(Target(1)), b"again") == b"again"


@pytest.mark.parametrize("way", ["http", "close"])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "the gateway does not know this token"),
        (403, "the gateway refuses this client"),
        (404, "knows no tunnel of this name"),
        (409, "as many sessions as it may have"),
        (426, "does not speak this client's protocol"),
        (429, "asks for patience"),
    ],
)
async def test_a_refusal_is_one_clear_line_and_a_slow_retry(
    way: str, status: int, said: str, gateway: InProcessGateway, start_client: StartClient, log: Log
) -> None:
    if way == "http":
        gateway.refuse(status, "what the gateway says")
    else:
        gateway.refuse_by_close(4000 + status, "what the gateway says")
    start_client("1=127.0.0.1:1", make_backoff=Backoff)
    line = await log.wait_for("warning", said)
    assert f"({status}): what the gateway says; next attempt in" in line
    (delay,) = re.findall(r"next attempt in ([\d.]+) s", line)
    assert float(delay) >= 8
    assert len(gateway.requests) == 1


async def test_retry_after_is_honoured(gateway: InProcessGateway, start_client: StartClient, log: Log) -> None:
    gateway.refuse(429, "slow down", {"Retry-After": "17"})
    start_client("1=127.0.0.1:1", make_backoff=Backoff)
    line = await log.wait_for("warning", "asks for patience")
    (delay,) = re.findall(r"next attempt in ([\d.]+) s", line)
    assert 17 <= float(delay) <= 22


async def test_a_token_that_was_changed_in_its_file_is_used_without_a_restart(
    gateway: InProcessGateway, start_client: StartClient, log: Log, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("mt_wrong\n")
    start_client("1=127.0.0.1:1", token=None, token_file=str(path))
    await log.wait_for("does not know this token")
    path.unlink()
    await log.wait_for("the token can't be read", str(path))
    path.write_text(TOKEN)
    await gateway.wait_for_session()


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (404, {"X-Moorline-Error": "UNKNOWN_HOST"}, "is a tunnel and not the gateway"),
        (503, {"X-Moorline-Error": "NO_CLIENT"}, "is a tunnel and not the gateway"),
        (404, {"Cache-Control": "max-age=60"}, "--url does not lead to a Moorline gateway"),
        (401, {"Content-Type": "text/html"}, "--url does not lead to a Moorline gateway"),
    ],
)
async def test_what_another_server_answers_is_told_and_asked_again_slowly(
    status: int,
    headers: dict[str, str],
    said: str,
    gateway: InProcessGateway,
    start_client: StartClient,
    log: Log,
) -> None:
    gateway.refuse(status, "no such page", headers)
    start_client("1=127.0.0.1:1", make_backoff=Backoff)
    line = await log.wait_for("warning", said)
    (delay,) = re.findall(r"next attempt in ([\d.]+) s", line)
    assert float(delay) >= 30


async def test_a_server_that_is_no_gateway_is_told(
    gateway: InProcessGateway, start_client: StartClient, log: Log
) -> None:
    gateway.selected = "chat"
    start_client("1=127.0.0.1:1")
    assert "the server speaks chat" in await log.wait_for("what answers is not a Moorline gateway")
    assert not gateway.live


async def test_a_server_that_hangs_up_during_the_upgrade_is_tried_again(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    service = await start_service(hang_up)
    start_client("1=127.0.0.1:1", url=f"ws://{service.address}/acmeco/prod")
    await log.wait_for("not connected", "closed during the WebSocket upgrade")
    await until(lambda: service.connections >= 3, "further attempts")


async def test_a_gateway_that_stops_is_left_at_once_while_its_streams_go_on(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log
) -> None:
    service = await start_service(echo)
    start_client(f"1={service.address}")
    first = await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(1)))
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    first.endpoint.announce_end(ErrorCode.SHUTDOWN, 20, "rolling update")
    second = await gateway.wait_for_session(2)
    assert log.find("the gateway is stopping; open connections have 20 s")
    writer.write(b"two")
    assert await reader.readexactly(3) == b"two"
    assert first.ended is None
    writer.write_eof()
    assert await reader.read() == b""
    await until(lambda: first.ended is not None, "the old session to end with its last stream")
    assert second.ended is None
    writer.close()


async def test_an_idle_session_stays_until_it_has_a_successor(
    gateway: InProcessGateway, start_client: StartClient, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it is what the provider's Services lead to."""
    monkeypatch.setattr("tunnels.client.session.OVERLAP", 0.0)
    start_client("1=127.0.0.1:1")
    first = await gateway.wait_for_session()
    gateway.refuse(503, "not ready")
    first.endpoint.announce_end(ErrorCode.SHUTDOWN, 20, "rolling update")
    await until(lambda: len(gateway.requests) >= 4, "a few attempts")
    assert first.ended is None
    gateway.answer = None
    await until(lambda: len(gateway.sessions) == 2 and gateway.sessions[1].live, "the successor")
    await until(lambda: first.ended is not None, "the idle session to end")
    assert gateway.sessions[1].live


async def test_an_idle_session_outlives_the_opening_of_its_successor(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService
) -> None:
    """The provider's Services have not followed yet."""
    service = await start_service(echo)
    start_client(f"1={service.address}")
    first = await gateway.wait_for_session()
    first.endpoint.announce_end(ErrorCode.SHUTDOWN, 20, "rolling update")
    await gateway.wait_for_session(2)
    for _ in range(10):
        assert await ask(gateway.listen(Target(1)), b"over the new one") == b"over the new one"
    assert first.ended is None
    assert first.draining is None, "the client has not said that it is leaving"


async def test_an_idle_session_without_a_successor_ends_with_its_time(
    gateway: InProcessGateway, start_client: StartClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnels.client.session.GRACE", 0.1)
    start_client("1=127.0.0.1:1")
    first = await gateway.wait_for_session()
    gateway.refuse(503, "not ready")
    first.endpoint.announce_end(ErrorCode.SHUTDOWN, 0.1, "rolling update")
    await until(lambda: first.ended is not None, "its end")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (ErrorCode.REVOKED, "the token opens this tunnel no more"),
        (ErrorCode.DISABLED, "the provider has closed this tunnel"),
    ],
)
async def test_an_end_that_a_person_has_to_undo_is_told_and_tried_slowly(
    code: ErrorCode, said: str, gateway: InProcessGateway, start_client: StartClient, log: Log
) -> None:
    start_client("1=127.0.0.1:1", make_backoff=Backoff)
    session = await gateway.wait_for_session()
    session.endpoint.close(code, "by an administrator")
    line = await log.wait_for("warning", said)
    (delay,) = re.findall(r"next attempt in ([\d.]+) s", line)
    assert float(delay) >= 30
    assert "by an administrator" in line


async def test_what_no_upstream_serves_is_told_with_the_option_to_add(
    gateway: InProcessGateway, start_client: StartClient, log: Log
) -> None:
    gateway.exposure = Exposure("acmeco", "prod", (1, 5432), ("shop.local",))
    start_client("1=127.0.0.1:1", "9=127.0.0.1:9", connections="2")
    session = await gateway.wait_for_session(2)
    await log.wait_for("warning", "port 5432", "add --upstream 5432=HOST:PORT")
    assert len(log.find("5432")) == 1  # once, not for each session
    assert log.find("warning", "host shop.local", "add --upstream shop.local=http://HOST:PORT")
    assert log.find("warning", "nothing will come for port 9")
    session.endpoint.send_update(Exposure("acmeco", "prod", (1, 9, 6379)))
    await log.wait_for("warning", "port 6379", "add --upstream 6379=HOST:PORT")


# -- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_stop_lets_streams_finish_and_takes_no_new_ones(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log
) -> None:
    service = await start_service(echo)
    client: RunningClient = start_client(f"1={service.address}")
    session = await gateway.wait_for_session()
    door = gateway.listen(Target(1))
    reader, writer = await asyncio.open_connection(*door)
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    client.stop()
    await until(lambda: session.draining is not None, "GOAWAY")
    assert session.draining == (ErrorCode.SHUTDOWN, 30.0)
    assert log.find("stopping: 1 open connections have 30 s")
    writer.write(b"after")
    assert await reader.readexactly(5) == b"after"
    writer.write_eof()
    assert await reader.read() == b""
    assert await client.end() == 0
    assert session.ended is not None
    writer.close()


async def test_streams_that_do_not_finish_in_time_are_reset(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService
) -> None:
    service = await start_service(echo)
    client: RunningClient = start_client(f"1={service.address}", drain_timeout="0.1")
    await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(1)))
    writer.write(b"x")
    await reader.readexactly(1)
    client.stop()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.read(), 5)
    assert await client.end() == 0


async def test_a_second_stop_ends_at_once(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService
) -> None:
    service = await start_service(echo)
    client: RunningClient = start_client(f"1={service.address}")
    await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(1)))
    writer.write(b"x")
    await reader.readexactly(1)
    client.stop()
    client.stop()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.read(), 5)
    assert await client.end() == 130


async def test_a_client_that_never_connected_stops_at_once(
    gateway: InProcessGateway, start_client: StartClient, log: Log
) -> None:
    gateway.refuse(401)
    client: RunningClient = start_client("1=127.0.0.1:1", make_backoff=Backoff)
    await log.wait_for("next attempt")
    client.stop()
    assert await client.end() == 0


async def test_a_fault_of_the_client_itself_is_one_line_and_exit_code_1(
    gateway: InProcessGateway, start_client: StartClient, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(line: Line) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Line, "_hold_session", fail)
    client: RunningClient = start_client("1=127.0.0.1:1")
    assert await client.end() == 1
    assert log.find("error", "the client failed (RuntimeError('a bug'))", "please report this line")


async def test_nothing_of_a_client_is_left_on_the_loop_after_its_end(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService
) -> None:
    before = asyncio.all_tasks()
    service = await start_service(echo)
    client: RunningClient = start_client(f"1={service.address}", connections="4")
    await gateway.wait_for_session(4)
    door = gateway.listen(Target(1))
    listening = asyncio.all_tasks()
    assert await ask(door, b"x") == b"x"
    client.stop()
    assert await client.end() == 0
    await until(lambda: not gateway.live, "the sessions to end")
    left = {task for task in asyncio.all_tasks() - before if "_accept" not in repr(task)}
    assert not left, (left, listening)


# -- a path that is dead ----------------------------------------------------------------------------------------------


class LossyRelay:
    """A way to the gateway that can swallow every byte, as a network does that was dropped without a word."""

    def __init__(self, port: int) -> None:
        self.swallows = False
        self._port = port

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        finally:
            back.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.swallows:
                writer.write(data)
        if not self.swallows:
            writer.write_eof()


async def test_a_dead_path_is_noticed_and_left(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log
) -> None:
    relay = LossyRelay(gateway.port)
    way = await start_service(relay.relay)
    start_client("1=127.0.0.1:1", url=f"ws://{way.address}/acmeco/prod", timing=Timing(idle=0.2, answer=0.5))
    await gateway.wait_for_session()
    relay.swallows = True
    await log.wait_for("not connected: the gateway is not heard any more", "cuts idle connections")
    relay.swallows = False
    await until(lambda: len(gateway.sessions) > 1 and gateway.sessions[-1].live, "another session")


async def test_an_idle_session_is_kept_alive(
    gateway: InProcessGateway, start_client: StartClient, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_client("1=127.0.0.1:1", timing=Timing(idle=0.2, answer=1))
    session = await gateway.wait_for_session()
    messages: list[int] = []
    receive = session.endpoint.message_received

    def count(message: memoryview) -> None:
        messages.append(len(message))
        receive(message)

    monkeypatch.setattr(session.endpoint, "message_received", count)
    await until(lambda: len(messages) >= 3, "three signs of life of an idle client")
    assert gateway.live == [session]
    assert not log.find("not connected")
