"""Gateways that are restarted one after the other: no new connection is refused, and none is lost on the way."""

from __future__ import annotations

import asyncio

import pytest

from tunnels.gateway.directory import GatewayReport, Usage
from tunnels.gateway.gateway import Gateway
from tunnels.gateway.presence import Presence
from tunnels.protocol import ErrorCode, Target

from ..conftest import BOUND, StartUpstream, echo, until
from ..peers import HTTP, PeerClient, PeerGrant, PeerHolder, Peers, listening, port_of, tunnel_of
from ..test_streams import assert_reset, exchange

PASSAGE = "tunnels.gateway.hop.passage"


class Roll:
    """A client with one session that moves on when its gateway says so, and applications that never stop asking."""

    def __init__(self, peers: Peers, upstreams: dict[int, tuple[str, int]]) -> None:
        self.peers = peers
        self.answers = 0
        self._upstreams = upstreams
        self._client: PeerClient | None = None

    async def connect(self, gateway: Gateway) -> None:
        self._client = await self.peers.connect(gateway, self._upstreams)

    async def restart(self, old: Gateway, new: Gateway) -> None:
        """Drain *old*, and have the client be at *new* only when a connection waits for it."""
        client, relay = self._client, old._relay
        assert client is not None
        assert relay is not None
        port = await listening(old)
        moved = asyncio.Event()
        draining = asyncio.create_task(old.drain(BOUND))
        await until(lambda: client.draining, "GOAWAY")
        asking = asyncio.create_task(self._ask(port, moved))
        client.endpoint.close(ErrorCode.SHUTDOWN, "the gateway is stopping")
        await until(lambda: relay.parked, "a connection to wait for a session")
        await self.connect(new)
        moved.set()
        await asking
        await asyncio.wait_for(draining, BOUND)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await old.stop()
        self.peers.gateways.remove(old)

    async def _ask(self, port: int, moved: asyncio.Event) -> None:
        """Ask again and again, a new connection each time, and a few times more behind the move."""
        more = 3
        while more:
            more -= moved.is_set()
            assert await exchange(port, b"question") == b"question"
            self.answers += 1


async def test_it_works(peers: Peers, start_upstream: StartUpstream) -> None:
    """Two gateways and one client with one session; each gateway is replaced in turn."""
    one, other = await peers.start("one-a", linger=1.0), await peers.start("other-a", linger=1.0)
    roll = Roll(peers, {1: await start_upstream(echo)})
    await roll.connect(one)
    await until(lambda: port_of(other), "the other to listen as well")
    new = await peers.start("one-b", linger=1.0)
    assert port_of(new), "a gateway is ready only when it listens for what is there already"
    await roll.restart(one, other)  # to the other old one, which is the next to go
    newer = await peers.start("other-b", linger=1.0)
    await roll.restart(other, new)
    assert roll.answers >= 2 * 4
    assert await exchange(await listening(newer), b"and on") == b"and on"
    assert sorted(peers.portal.gateways) == ["one-b", "other-b"]


async def test_http_is_parked_and_passed_on_as_well(peers: Peers, start_upstream: StartUpstream) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstreams = {8000: await start_upstream(answer)}
    old, new = await peers.start("old", linger=1.0), await peers.start("new")
    client = await peers.connect(old, upstreams)
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: client.draining, "GOAWAY")
    reader, writer = await asyncio.open_connection("127.0.0.1", await listening(old, HTTP))
    writer.write(b"GET / HTTP/1.1\r\nHost: identity1.local\r\n\r\n")
    await until(lambda: old._relay is not None and old._relay.parked, "the connection to wait")
    await peers.connect(new, upstreams)
    assert (await asyncio.wait_for(reader.readline(), BOUND)).startswith(b"HTTP/1.1 200 ")
    writer.transport.abort()
    await asyncio.wait_for(draining, BOUND)


async def test_idle_http_connections_are_closed_so_that_the_next_finds_the_new_session(
    peers: Peers, start_upstream: StartUpstream
) -> None:
    one, other = await peers.start("one"), await peers.start("other")
    client = await peers.connect(one, {8000: await start_upstream(echo)})
    await peers.connect(other, {8000: await start_upstream(echo)})
    reader, writer = await asyncio.open_connection("127.0.0.1", await listening(one, HTTP))
    await until(lambda: tunnel_of(one).connections, "the connection")
    client.endpoint.announce_end(ErrorCode.SHUTDOWN, 30.0, "the client is stopping")
    assert await asyncio.wait_for(reader.read(), BOUND) == b""
    writer.close()


async def test_an_http_connection_that_met_no_session_is_closed_when_there_is_one_elsewhere(
    peers: Peers, unused_port: int
) -> None:
    one, other = await peers.start("one"), await peers.start("other")
    peers.portal.forged["1"] = (PeerHolder("gone", "127.0.0.1", unused_port),)
    peers.portal.publish("1")
    reader, writer = await asyncio.open_connection("127.0.0.1", await listening(one, HTTP))
    writer.write(b"GET / HTTP/1.1\r\nHost: identity1.local\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND)
    assert head.startswith(b"HTTP/1.1 503 ")
    del peers.portal.forged["1"]
    await peers.connect(other)
    await asyncio.wait_for(reader.read(), BOUND)
    writer.close()


async def test_streams_in_flight_have_the_rest_of_the_time(peers: Peers, start_upstream: StartUpstream) -> None:
    old = await peers.start("old", linger=0.1)
    await peers.connect(old, {1: await start_upstream(echo)})
    port = await listening(old)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"before")
    assert await asyncio.wait_for(reader.readexactly(6), BOUND) == b"before"
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: not tunnel_of(old)._accepting, "the listeners to close")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"after")
    assert await asyncio.wait_for(reader.readexactly(5), BOUND) == b"after"
    assert not draining.done()
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), BOUND) == b""
    writer.close()
    await asyncio.wait_for(draining, BOUND)


async def test_a_connection_that_waits_in_vain_is_reset(
    peers: Peers, start_upstream: StartUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(f"{PASSAGE}.PARK_TIMEOUT", 0.2)
    old = await peers.start("old", linger=1.0)
    await peers.connect(old, {1: await start_upstream(echo)})
    port = await listening(old)
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: old.draining, "the drain")
    await assert_reset(port, bound=2.0)
    assert "acmeco/prod port 1: connections are reset: no client is connected (LOST)" in caplog.text
    await asyncio.wait_for(draining, BOUND)


async def test_few_wait_at_a_time(peers: Peers, start_upstream: StartUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{PASSAGE}.MAX_PARKED", 2)
    old = await peers.start("old", linger=BOUND)
    client = await peers.connect(old, {1: await start_upstream(echo)})
    port = await listening(old)
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: client.draining, "GOAWAY")
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    await until(lambda: old._relay is not None and old._relay.parked == 2, "two to wait")
    await assert_reset(port, bound=2.0)
    for _, writer in held:
        writer.close()
    draining.cancel()


async def test_a_tunnel_has_its_share_of_those_that_wait(
    start_upstream: StartUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{PASSAGE}.MAX_PARKED_OF_TUNNEL", 2)
    peers = Peers(PeerGrant(), PeerGrant(tunnel="staging", tunnel_id="2", token_id="other"))
    old = await peers.start("old", linger=BOUND)
    clients = [await peers.connect(old, token=token) for token in ("good", "other")]
    port, other = await listening(old), await listening(old, tunnel_id="2")
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: all(client.draining for client in clients), "GOAWAY")
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    await until(lambda: old._relay is not None and old._relay.parked == 2, "two to wait")
    await assert_reset(port, bound=2.0)
    held.append(await asyncio.open_connection("127.0.0.1", other))
    await until(lambda: old._relay is not None and old._relay.parked == 3, "one of the other tunnel to wait")
    for _, writer in held:
        writer.close()
    draining.cancel()
    await peers.stop()
    assert old._relay is not None
    assert not old._relay._parked_of


async def test_a_gateway_that_stops_holds_no_connection_that_waits(peers: Peers, start_upstream: StartUpstream) -> None:
    old = await peers.start("old", linger=BOUND)
    client = await peers.connect(old, {1: await start_upstream(echo)})
    port = await listening(old)
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: client.draining, "GOAWAY")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: old._relay is not None and old._relay.parked, "it to wait")
    draining.cancel()
    await old.stop()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), BOUND)
    writer.close()


async def test_a_connection_waits_where_its_holder_is_stopping(
    peers: Peers, start_upstream: StartUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came to a third gateway, which knows nothing of a drain but what the holder answers."""

    async def forget(gateway: str) -> None: ...

    monkeypatch.setattr(peers.portal, "gateway_draining", forget)
    upstreams = {1: await start_upstream(echo)}
    old, new, third = [await peers.start(name, linger=1.0) for name in ("old", "new", "third")]
    client = await peers.connect(old, upstreams)
    port = await listening(third)
    peers.portal.silent = True
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: client.draining, "GOAWAY")
    asking = asyncio.create_task(exchange(port, b"question"))
    await until(lambda: third._relay is not None and third._relay.parked, "it to wait")
    await peers.connect(new, upstreams)  # whose notice is lost: the portal is asked again
    assert await asyncio.wait_for(asking, BOUND) == b"question"
    await asyncio.wait_for(draining, BOUND)


async def test_a_connection_that_waits_takes_a_session_that_opens_here(
    peers: Peers, start_upstream: StartUpstream
) -> None:
    upstreams = {1: await start_upstream(echo)}
    old, third = await peers.start("old", linger=1.0), await peers.start("third")
    client = await peers.connect(old, upstreams)
    port = await listening(third)
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: client.draining, "GOAWAY")
    asking = asyncio.create_task(exchange(port, b"question"))
    await until(lambda: third._relay is not None and third._relay.parked, "it to wait")
    await peers.connect(third, upstreams)
    assert await asyncio.wait_for(asking, BOUND) == b"question"
    await asyncio.wait_for(draining, BOUND)


async def test_without_a_linger_connections_are_refused_at_once(peers: Peers, start_upstream: StartUpstream) -> None:
    old = await peers.start("old")
    await peers.connect(old, {1: await start_upstream(echo)})
    port = await listening(old)
    draining = asyncio.create_task(old.drain(BOUND))
    await until(lambda: old.draining, "the drain")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await asyncio.wait_for(draining, BOUND)


async def test_a_drain_that_is_short_cuts_the_linger(peers: Peers, start_upstream: StartUpstream) -> None:
    old = await peers.start("old", linger=60.0)
    await peers.connect(old, {1: await start_upstream(echo)})
    await asyncio.wait_for(old.drain(0.1), 5.0)


async def test_the_portal_is_told_and_no_heartbeat_takes_it_back(peers: Peers) -> None:
    gate = asyncio.Event()

    class SlowPortal:
        def __init__(self) -> None:
            self.draining: list[bool] = []

        async def heartbeat(self, report: GatewayReport, sessions: dict[str, Usage]) -> None:
            await gate.wait()
            self.draining.append(report.draining)

        async def gateway_draining(self, gateway: str) -> None:
            self.draining.append(True)

    portal = SlowPortal()
    presence = Presence(portal, GatewayReport("one", "127.0.0.1", 1, "1", ()))  # type: ignore[arg-type]
    late = asyncio.create_task(presence.beat({}))
    await asyncio.sleep(0)
    telling = asyncio.create_task(presence.drain())
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(late, telling)
    await presence.beat({})
    assert portal.draining == [False, True, True]


async def test_a_gateway_that_begins_is_ready_when_it_listens(peers: Peers) -> None:
    holds = await peers.start("holds")
    await peers.connect(holds)
    peers.portal.gate.clear()
    starting = asyncio.create_task(peers.start("new"))
    await until(lambda: None in peers.portal.asked[1:], "it to ask")
    new = peers.gateways[-1]
    assert not new.ready
    peers.portal.gate.set()
    await asyncio.wait_for(starting, BOUND)
    assert new.ready
    assert port_of(new, Target(1))
    assert port_of(new, HTTP)
