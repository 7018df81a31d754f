"""The gateway in this process, where the test says when the portal answers and when a byte comes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio

from tunnels.endpoint import Endpoint, Timing
from tunnels.gateway import gateway as gateway_module
from tunnels.gateway.directory import GatewayReport, Notice, Refused, Route, SessionReport, Usage
from tunnels.gateway.gateway import Gateway
from tunnels.gateway.options import GatewayOptions
from tunnels.gateway.throttle import KnownTokens, Throttle
from tunnels.protocol import SUBPROTOCOL, ErrorCode, Exposure, Hello, Role, Session, Target
from tunnels.protocol import frames as f
from tunnels.protocol.events import ExposureChanged, SessionOpened

from .conftest import BOUND, reset, until
from .test_streams import assert_reset

HEADROOM = 14
HTTP = Target(8000, "*")


@dataclass(frozen=True)
class TestGrant:
    __test__ = False

    customer: str = "acmeco"
    tunnel: str = "prod"
    tunnel_id: str = "1"
    token_id: str = "good"
    tcp_ports: Mapping[int, int] = field(default_factory=dict, hash=False)
    http_port: int = 0
    hosts: tuple[str, ...] = ()
    revision: int = 1
    max_sessions: int = 16
    max_streams: int = 4096


class TestDirectory:
    """A portal of one tunnel, *grant*; *gates* are what its next answers wait for, one each."""

    __test__ = False

    def __init__(self) -> None:
        self.grant = TestGrant(tcp_ports={1: 0})
        self.revoked = False
        self.gates: list[asyncio.Event] = []
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.notices: asyncio.Queue[Notice | Exception] = asyncio.Queue()
        self.heartbeats = 0

    async def authorize(self, customer: str, tunnel: str, token: str, address: str) -> TestGrant:
        self.asked += 1
        if self.gates:
            await self.gates.pop(0).wait()
        if token != "good":
            raise Refused(401, "This token is not known.")
        if self.revoked:
            raise Refused(403, "This token was revoked.")
        return self.grant

    async def renew(self, grant: TestGrant) -> TestGrant:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        answer = self.grant
        if self.gates:
            await self.gates.pop(0).wait()
        self.at_once -= 1
        if self.revoked:
            raise Refused(403, "This token was revoked.")
        return answer

    async def gateway_started(self, report: GatewayReport) -> None: ...

    async def gateway_draining(self, gateway: str) -> None: ...

    async def gateway_stopped(self, gateway: str) -> None: ...

    async def session_opened(self, report: SessionReport) -> None: ...

    async def session_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None: ...

    async def heartbeat(self, report: GatewayReport, sessions: Mapping[str, Usage]) -> None:
        self.heartbeats += 1
        if self.heartbeats == 1:
            raise RuntimeError("the database is down")

    async def routes(self, tunnel_ids: Collection[str] | None) -> list[Route]:
        raise AssertionError("a gateway without others asked who they are")

    async def changes(self) -> AsyncGenerator[Notice, None]:
        while True:
            notice = await self.notices.get()
            if isinstance(notice, Exception):
                raise notice
            yield notice


class TestPeer:
    """The client at the far end of a transport in memory; it is the hand-over that the gateway finds in the scope."""

    __test__ = False
    headroom = HEADROOM
    kind = "memory"

    def __init__(self) -> None:
        self.accepting = asyncio.Event()
        self.accepting.set()
        self.endpoint: Endpoint | None = None
        self.refused: bytes | None = None
        self.closed: tuple[int, str] | None = None
        self.exposures: list[Exposure] = []
        self._session = Session(Role.CLIENT, Hello("test/1", "test"))

    async def accept(self, endpoint: Endpoint, subprotocol: str) -> None:
        await self.accepting.wait()
        self.endpoint = endpoint
        endpoint.transport_ready(self)

    def refuse(self, response: bytes) -> None:
        self.refused = response

    def send_message(self, buffer: bytearray) -> None:
        for event in self._session.receive_message(memoryview(bytes(buffer[HEADROOM:])), 0.0):
            if isinstance(event, SessionOpened):
                self.exposures.append(event.hello.exposure)
            elif isinstance(event, ExposureChanged):
                self.exposures.append(event.exposure)

    def unsent_bytes(self) -> int:
        return 0

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def abort(self) -> None:
        self.closed = (1006, "")

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def say(self, kind: int, stream_id: int = 0, payload: bytes = b"") -> None:
        assert self.endpoint is not None
        self.endpoint.message_received(memoryview(f.pack_frame(kind, stream_id, payload)))

    def say_hello(self) -> None:
        self.say(f.HELLO, 0, f.pack_hello(Hello("test/1", "test")))

    @property
    def status(self) -> int | None:
        return int(self.refused.split()[1]) if self.refused is not None else None


class Site:
    """A gateway and its portal."""

    def __init__(self, timing: Timing | None = None) -> None:
        self.directory = TestDirectory()
        self.gateway = Gateway(self.directory, GatewayOptions("test", timing=timing or Timing()))

    async def connect(self, peer: TestPeer, *, token: str = "good", address: str = "203.0.113.9") -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Mapping[str, Any]) -> None:
            raise AssertionError(message)

        scope = {
            "type": "websocket",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "subprotocols": [SUBPROTOCOL],
            "url_route": {"kwargs": {"customer": "acmeco", "tunnel": "prod"}},
            "client": (address, 1),
            "extensions": {"moorline.handover": peer},
        }
        await self.gateway(scope, receive, send)

    async def open(self) -> TestPeer:
        peer = TestPeer()
        await self.connect(peer)
        peer.say_hello()
        return peer

    def listening_on(self, target: Target) -> int | None:
        live = self.gateway.registry.get("1")
        return live.listening_on(target) if live is not None else None

    def change(self, **facts: Any) -> None:
        self.directory.grant = replace(self.directory.grant, revision=self.directory.grant.revision + 1, **facts)
        self.directory.notices.put_nowait(Notice("1"))


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    yield site
    await site.gateway.stop()


async def begin_slow_answer(site: Site, peer: TestPeer) -> tuple[socket.socket, bytes]:
    """Return a connection whose stream has ended both ways, with an answer that its application has not read."""
    live = site.gateway.registry.get("1")
    assert live is not None
    live._listeners[Target(1)]._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    application = socket.socket()
    application.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    application.setblocking(False)
    await asyncio.get_running_loop().sock_connect(application, ("127.0.0.1", live.listening_on(Target(1))))
    application.shutdown(socket.SHUT_WR)
    assert peer.endpoint is not None
    await until(lambda: live.streams, "the stream")
    answer = bytes(range(256)) * 512
    peer.say(f.ACCEPT, 1)
    for start in range(0, len(answer), 65536):
        peer.say(f.DATA, 1, answer[start : start + 65536])
    peer.say(f.FIN, 1)
    await until(lambda: not live.streams, "the end of the stream")
    assert live.connections == 1, "the gateway still has bytes for the application"
    return application, answer


async def read_all(application: socket.socket) -> bytes:
    received = bytearray()
    async with asyncio.timeout(BOUND):
        while data := await asyncio.get_running_loop().sock_recv(application, 65536):
            received += data
    application.close()
    return bytes(received)


async def test_it_works(site: Site) -> None:
    peer = await site.open()
    assert site.listening_on(Target(1))
    assert peer.exposures[0].tcp_ports == (1,)


# -- the last bytes ---------------------------------------------------------------------------------------------------


async def test_a_session_that_ends_leaves_a_slow_application_its_last_bytes(site: Site) -> None:
    peer = await site.open()
    port = site.listening_on(Target(1))
    application, answer = await begin_slow_answer(site, peer)
    assert peer.endpoint is not None
    peer.endpoint.transport_lost(1006, "")
    assert site.gateway.registry.get("1") is None
    site.directory.grant = replace(site.directory.grant, tcp_ports={1: port})
    await site.open()
    assert site.listening_on(Target(1)) == port, "the port is free for the next session at once"
    assert await read_all(application) == answer
    await until(lambda: not site.gateway.registry.busy, "the connection to be forgotten")


async def test_a_drain_waits_for_a_slow_application(site: Site) -> None:
    application, answer = await begin_slow_answer(site, await site.open())
    draining = asyncio.create_task(site.gateway.drain(BOUND))
    await until(lambda: site.gateway.draining, "the drain")
    assert await read_all(application) == answer
    await asyncio.wait_for(draining, BOUND)


async def test_a_gateway_that_stops_resets_what_is_left(site: Site) -> None:
    application, _ = await begin_slow_answer(site, await site.open())
    await site.gateway.drain(0)
    assert site.gateway.registry.busy
    await site.gateway.stop()
    assert not site.gateway.registry.busy
    with pytest.raises(ConnectionResetError):
        await read_all(application)


async def test_last_bytes_have_an_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.gateway.listeners.FINISH_TIMEOUT", 0.05)
    peer = await site.open()
    application, _ = await begin_slow_answer(site, peer)
    assert peer.endpoint is not None
    peer.endpoint.transport_lost(1006, "")
    await until(lambda: not site.gateway.registry.busy, "the reset")
    with pytest.raises(ConnectionResetError):
        await read_all(application)


# -- what the portal says, and when -----------------------------------------------------------------------------------


async def test_renewals_of_a_tunnel_do_not_overtake_each_other(site: Site) -> None:
    peer = await site.open()
    slow = asyncio.Event()
    site.directory.gates = [slow]
    site.directory.notices.put_nowait(Notice("1"))
    await until(lambda: site.directory.at_once, "the first renewal")
    site.change(tcp_ports={2: 0})
    await until(lambda: site.gateway._notices == 2, "the second notice")
    slow.set()
    await until(lambda: site.listening_on(Target(2)), "the change")
    assert site.listening_on(Target(1)) is None
    assert site.directory.most_at_once == 1
    assert [exposure.tcp_ports for exposure in peer.exposures] == [(1,), (2,)]


async def test_an_older_grant_changes_nothing(site: Site) -> None:
    await site.open()
    live = site.gateway.registry.get("1")
    assert live is not None
    live.apply(TestGrant(tcp_ports={2: 0}, revision=2))
    live.apply(TestGrant(tcp_ports={1: 0}, revision=1))
    assert live.layout.revision == 2
    assert (live.listening_on(Target(1)), live.listening_on(Target(2)) is not None) == (None, True)


async def test_a_token_revoked_during_the_upgrade_does_not_get_in(site: Site) -> None:
    peer = TestPeer()
    peer.accepting.clear()
    connecting = asyncio.create_task(site.connect(peer))
    await until(lambda: site.gateway.registry.get("1"), "the admission")
    site.directory.revoked = True
    site.directory.notices.put_nowait(Notice("1"))
    await until(lambda: site.gateway._notices and not site.gateway._renewing, "the renewal that finds no session")
    peer.accepting.set()
    await connecting
    peer.say_hello()
    await until(lambda: peer.closed, "the end of the session")
    assert peer.closed == (ErrorCode.REVOKED.close_code, "This token was revoked.")


async def test_a_client_is_told_what_changed_during_its_upgrade(site: Site) -> None:
    first = await site.open()
    late = TestPeer()
    await site.connect(late)
    site.change(tcp_ports={1: 0, 2: 0})
    await until(lambda: len(first.exposures) == 2, "the update")
    late.say_hello()
    assert [exposure.tcp_ports for exposure in late.exposures] == [(1,), (1, 2)]


async def test_a_hello_during_a_drain_opens_nothing(site: Site) -> None:
    await site.open()
    late = TestPeer()
    await site.connect(late)
    live = site.gateway.registry.get("1")
    assert live is not None
    _, writer = await asyncio.open_connection("127.0.0.1", live.listening_on(Target(1)))
    await until(lambda: live.streams, "a stream that the drain waits for")
    draining = asyncio.create_task(site.gateway.drain(BOUND))
    await until(lambda: site.gateway.draining, "the drain")
    late.say_hello()
    assert late.closed == (ErrorCode.SHUTDOWN.close_code, "the gateway is stopping")
    live.apply(TestGrant(tcp_ports={1: 0, 2: 0}, revision=2))
    assert live.listening_on(Target(2)) is None
    reset(writer)
    await asyncio.wait_for(draining, 5.0)  # an end instead, as abort() sends it, would leave the client its answer


async def test_a_drain_sees_a_reset_of_a_connection_that_may_send_nothing_now() -> None:
    """Its client never answered and never gave credit, so nothing is read of the application."""
    site = Site(Timing(check=0.05))
    await site.open()
    live = site.gateway.registry.get("1")
    assert live is not None
    _, writer = await asyncio.open_connection("127.0.0.1", live.listening_on(Target(1)))
    writer.write(bytes(1 << 20))
    await until(lambda: live.streams, "a stream that the drain waits for")
    (bridge,) = live._listeners[Target(1)]._bridges  # type: ignore[attr-defined]
    await until(lambda: not bridge._reading, "the credit to be used up")
    draining = asyncio.create_task(site.gateway.drain(BOUND))
    await until(lambda: site.gateway.draining, "the drain")
    assert live.streams == 1
    reset(writer)
    await asyncio.wait_for(draining, 5.0)
    await site.gateway.stop()


async def test_one_failure_ends_no_task(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("HEARTBEAT_INTERVAL", "RENEW_INTERVAL", "WATCH_DELAY"):
        monkeypatch.setattr(gateway_module, name, 0.01)
    await site.open()
    site.directory.notices.put_nowait(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
    live = site.gateway.registry.get("1")
    assert live is not None
    monkeypatch.setattr(live, "apply", lambda grant: 1 // 0)
    await until(lambda: "it could not be renewed" in caplog.text, "the failure to be logged")
    monkeypatch.undo()
    site.change(tcp_ports={2: 0})
    await until(lambda: site.listening_on(Target(2)), "the change")
    site.directory.notices.put_nowait(Notice("1"))
    await until(lambda: site.gateway._notices == 2, "the notice after the failure")
    await until(lambda: site.directory.heartbeats > 1, "the heartbeat after the failure")
    assert "the portal's notices of changes failed; listening again: UnicodeDecodeError" in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


# -- bounds -----------------------------------------------------------------------------------------------------------


async def test_idle_connections_of_http_have_a_bound(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.directory.grant = TestGrant(max_streams=2)
    await site.open()
    port = site.listening_on(HTTP)
    live = site.gateway.registry.get("1")
    assert live is not None
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
    await until(lambda: live.connections == 4, "the connections")
    for _ in range(3):
        await assert_reset(port)
    assert caplog.text.count("the tunnel has 4 connections already (LIMIT)") == 1
    held.pop()[1].close()
    await until(lambda: live.connections == 3, "the place")
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: live.connections == 4, "the connection in its place")
    for _, one in [*held, (None, writer)]:
        one.close()


async def test_all_ports_of_a_tunnel_share_one_bound(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.directory.grant = TestGrant(tcp_ports={1: 0, 2: 0}, max_streams=2)
    await site.open()
    live = site.gateway.registry.get("1")
    assert live is not None
    held = [await asyncio.open_connection("127.0.0.1", site.listening_on(HTTP)) for _ in range(3)]
    held.append(await asyncio.open_connection("127.0.0.1", site.listening_on(Target(1))))
    await until(lambda: live.connections == 4, "the connections")
    for target in (Target(1), Target(2), HTTP):
        await assert_reset(site.listening_on(target))
    assert caplog.text.count("the tunnel has 4 connections already (LIMIT)") == 3
    for _, writer in held:
        reset(writer)
    await until(lambda: not live.connections, "the connections to end")
    _, writer = await asyncio.open_connection("127.0.0.1", site.listening_on(Target(2)))
    await until(lambda: live.streams == 1, "the place")
    reset(writer)


async def test_a_connection_that_can_not_be_taken_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*args: Any) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    await site.open()
    live = site.gateway.registry.get("1")
    assert live is not None
    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", fail)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.listening_on(HTTP))
    assert await asyncio.wait_for(reader.read(), BOUND) == b""
    writer.close()
    assert live.connections == 0
    assert "a connection was lost as it was taken: Transport endpoint is not connected" in caplog.text


async def test_a_long_list_is_told_as_far_as_it_fits(site: Site) -> None:
    hosts = tuple(f"host-{number}.internal.example" for number in range(1600))
    site.directory.grant = TestGrant(hosts=hosts)
    peer = await site.open()
    assert peer.exposures[0].hosts == hosts[:200]
    live = site.gateway.registry.get("1")
    assert live is not None
    live.apply(TestGrant(hosts=hosts[1:], revision=2))
    assert peer.exposures[1].hosts == hosts[1:201]
    assert peer.closed is None


# -- wrong tokens -----------------------------------------------------------------------------------------------------


async def try_token(site: Site, token: str, address: str = "203.0.113.9") -> int | None:
    """Return the status of a refusal, or None for a client that got in."""
    peer = TestPeer()
    await site.connect(peer, token=token, address=address)
    return peer.status


async def test_a_token_that_was_good_gets_in_while_its_address_is_throttled(site: Site) -> None:
    assert await try_token(site, "good") is None
    assert [await try_token(site, "wrong") for _ in range(11)] == [401] * 10 + [429]
    assert await try_token(site, "good") is None
    site.directory.revoked = True
    assert [await try_token(site, "wrong") for _ in range(11)] == [401] * 10 + [429]
    assert [await try_token(site, "good") for _ in range(2)] == [403, 429], "a refused token is known no more"


async def test_wrong_tokens_at_once_do_not_all_reach_the_portal(site: Site) -> None:
    answered = asyncio.Event()
    site.directory.gates = [answered] * 300
    tries = asyncio.gather(*[try_token(site, "wrong") for _ in range(300)])
    await until(lambda: site.directory.asked, "the first tries")
    answered.set()
    statuses = await asyncio.wait_for(tries, BOUND)
    assert set(statuses) == {401, 429}
    assert site.directory.asked == statuses.count(401) < 20


async def test_nobody_waits_for_ever_for_a_turn(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.gateway.throttle.TURN_TIMEOUT", 0.05)
    answered = asyncio.Event()
    site.directory.gates = [answered] * 10
    tries = asyncio.gather(*[try_token(site, "good") for _ in range(10)])
    await until(lambda: site.directory.asked == 10, "as many tries as there may be at once")
    assert await try_token(site, "good") == 429
    answered.set()
    assert await asyncio.wait_for(tries, BOUND) == [None] * 10


async def test_good_tokens_at_once_all_get_in(site: Site) -> None:
    site.directory.grant = TestGrant(max_sessions=100)
    assert await asyncio.wait_for(asyncio.gather(*[try_token(site, "good") for _ in range(50)]), BOUND) == [None] * 50


async def test_an_ipv6_network_counts_as_one_source(site: Site) -> None:
    statuses = [await try_token(site, "wrong", f"2001:db8::{number:x}") for number in range(11)]
    assert statuses == [401] * 10 + [429]
    assert await try_token(site, "wrong", "2001:db8:0:1::1") == 401
    assert await try_token(site, "wrong", "::ffff:203.0.113.1") == 401


async def test_the_throttle_remembers_no_more_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.gateway.throttle.MAX_SOURCES", 3)
    monkeypatch.setattr("tunnels.gateway.throttle.MAX_TOKENS", 3)
    throttle, known = Throttle(failures=1), KnownTokens()
    for number in range(5):
        throttle.note_failure(f"192.0.2.{number}")
        known.add(f"token-{number}")
        async with throttle.turn(f"192.0.2.{number}"):
            pass
    assert (len(throttle), len(known), throttle._queues) == (3, 3, {})
    assert [throttle.wait_for(f"192.0.2.{number}") > 0 for number in range(5)] == [False, False, True, True, True]
    assert [f"token-{number}" in known for number in range(5)] == [False, False, True, True, True]


def test_mapped_addresses_count_as_the_ipv4_addresses_they_are() -> None:
    throttle = Throttle(failures=1)
    throttle.note_failure("::ffff:192.0.2.1")
    assert throttle.wait_for("192.0.2.1")
    assert not throttle.wait_for("::ffff:192.0.2.2")
