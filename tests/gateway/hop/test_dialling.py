"""A gateway that does not answer holds up those connections that want to go to it, and no others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tunnels.gateway.gateway import Gateway
from tunnels.gateway.hop import dialling
from tunnels.gateway.hop.dialling import Dialler, HopFailed
from tunnels.gateway.hop.wire import Request
from tunnels.protocol import Target

from ..conftest import BOUND, StartUpstream, echo, until
from ..peers import SECRET, PeerHolder, Peers, holder, hop_port

DIALLING = "tunnels.gateway.hop.dialling"


class Way:
    """A port that leads to a gateway's hop, but for the connections that *holds_up* wants to keep for a while."""

    def __init__(self) -> None:
        self.holds_up: Callable[[], bool] = lambda: True
        self.open = asyncio.Event()  # those that are kept go on
        self.waiting = 0
        self.most_waiting = 0
        self.arrived = 0
        self._gateway: Gateway
        self._server: asyncio.Server

    async def start(self, gateway: Gateway) -> PeerHolder:
        self._gateway = gateway
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        return PeerHolder(gateway._options.name, "127.0.0.1", self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.arrived += 1
        if self.holds_up() and not self.open.is_set():
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            waits = [asyncio.create_task(self.open.wait()), asyncio.create_task(reader.read(1))]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self.waiting -= 1
            for wait in waits:
                wait.cancel()
            if not self.open.is_set():
                writer.close()
                return
            await asyncio.wait(waits)
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", hop_port(self._gateway))
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


def request(tunnel_id: str = "1") -> Request:
    return Request(tunnel_id, Target(1), "10.0.0.1:1")


async def end(tasks: list[asyncio.Task[socket.socket]]) -> None:
    for task in tasks:
        task.cancel()
    for sock in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(sock, socket.socket):
            sock.close()


@pytest_asyncio.fixture
async def holds(peers: Peers, start_upstream: StartUpstream) -> Gateway:
    gateway = await peers.start("holds")
    await peers.connect(gateway, {1: await start_upstream(echo)})
    return gateway


@pytest_asyncio.fixture
async def way() -> AsyncIterator[Way]:
    way = Way()
    yield way
    way.open.set()
    way.stop()


async def test_it_works(holds: Gateway) -> None:
    dialler = Dialler(SECRET.encode())
    with await dialler.dial(holder(holds), request(), BOUND) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"x")
        assert await asyncio.wait_for(loop.sock_recv(sock, 1), BOUND) == b"x"
    assert not dialler._turns._users
    assert not dialler._turns_of_tunnel._users


async def test_a_silent_gateway_holds_up_no_hop_to_another(
    holds: Gateway, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{DIALLING}.DIAL_TIMEOUT", BOUND)  # however long it takes until all are under way
    dialler = Dialler(SECRET.encode())
    silent = await way.start(holds)
    dials = [asyncio.create_task(dialler.dial(silent, request(str(n % 16)), BOUND)) for n in range(1024)]
    await until(lambda: way.waiting == dialling.MAX_DIALS, "as many dials as there may be")
    (await asyncio.wait_for(dialler.dial(holder(holds), request(), BOUND), 1.0)).close()
    assert way.most_waiting == dialling.MAX_DIALS
    await end(dials)


async def test_a_tunnel_has_its_share_of_a_gateway(holds: Gateway, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{DIALLING}.DIAL_TIMEOUT", BOUND)
    dialler = Dialler(SECRET.encode())
    way.holds_up = lambda: way.arrived <= dialling.MAX_DIALS_OF_TUNNEL
    slow = await way.start(holds)
    dials = [asyncio.create_task(dialler.dial(slow, request("2"), BOUND)) for _ in range(100)]
    await until(lambda: way.waiting == dialling.MAX_DIALS_OF_TUNNEL, "as many of the tunnel as there may be")
    (await asyncio.wait_for(dialler.dial(slow, request("1"), BOUND), 1.0)).close()
    assert not any(dial.done() for dial in dials)
    await end(dials)


async def test_the_wait_for_a_turn_is_within_the_time_out(
    holds: Gateway, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{DIALLING}.DIAL_TIMEOUT", 0.3)
    monkeypatch.setattr(f"{DIALLING}.MAX_DIALS_OF_TUNNEL", 1)
    dialler = Dialler(SECRET.encode())
    silent = await way.start(holds)
    dials = [dialler.dial(silent, request(), BOUND) for _ in range(50)]
    async with asyncio.timeout(5.0):  # one behind the other they would take 15 s
        failures = await asyncio.gather(*dials, return_exceptions=True)
    assert {str(failure) for failure in failures} == {f"holds does not answer at 127.0.0.1:{silent.hop_port}"}
    assert all(isinstance(failure, HopFailed) for failure in failures)


async def test_what_is_left_of_a_connections_time_bounds_its_dial(holds: Gateway, way: Way) -> None:
    silent = await way.start(holds)
    async with asyncio.timeout(2.0):
        with pytest.raises(HopFailed, match="holds does not answer"):
            await Dialler(SECRET.encode()).dial(silent, request(), 0.05)


async def test_a_gateway_that_was_silent_is_dialled_by_one_at_a_time(
    holds: Gateway, way: Way, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("DIAL_TIMEOUT", "REST"):  # however long it takes until all are under way
        monkeypatch.setattr(f"{DIALLING}.{name}", BOUND)
    dialler = Dialler(SECRET.encode())
    silent = await way.start(holds)
    with pytest.raises(HopFailed):
        await dialler.dial(silent, request(), 0.05)
    await until(lambda: way.arrived and not way.waiting, "the first to be gone")
    way.most_waiting = 0
    dials = [asyncio.create_task(dialler.dial(silent, request(), BOUND)) for _ in range(20)]
    await until(lambda: way.waiting and [n for _, n in dialler._turns._users.values()] == [20], "all to have begun")
    assert way.arrived == 2
    way.open.set()  # it answers again: who waited goes on
    socks = await asyncio.wait_for(asyncio.gather(*dials), BOUND)
    assert way.most_waiting == 1
    assert way.arrived == 1 + 20
    assert not dialler._silent
    assert caplog.text.count("a connection could not be passed on: holds does not answer") == 1
    for sock in socks:
        sock.close()
