"""TCP connections bridged over two endpoints: application <-> gateway bridge <-> client bridge <-> upstream."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tunnels.bridge import Bridge, ProtocolBridge, SocketBridge
from tunnels.endpoint import StreamHandler
from tunnels.protocol import ErrorCode, Limits, Stream, Target

from .memory import Line, check_books

SOON = 10.0  # seconds; what is waited for comes at once
KERNEL_BUFFER = 65536  # bytes; small, so that a reader that stalls is felt soon


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a TCP connection on the loopback; unlike a socketpair it can be reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
    return near, far


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, data), SOON)


async def receive(sock: socket.socket, most: int = 1 << 30) -> bytes:
    """Return up to *most* bytes of *sock*, or all until its end."""
    found = bytearray()
    async with asyncio.timeout(SOON):
        while len(found) < most:
            data = await asyncio.get_running_loop().sock_recv(sock, min(1 << 18, most - len(found)))
            if not data:
                break
            found += data
    return bytes(found)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for *condition*, no longer than SOON."""
    try:
        async with asyncio.timeout(SOON):
            while not condition():
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"not within {SOON} s: {what}") from None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Wire:
    """One bridged connection: *app* and *upstream* are what the applications at both ends hold."""

    def __init__(self, wires: Wires) -> None:
        self.app, self._gateway_socket = tcp_pair()
        self.upstream, self.client_socket = tcp_pair()
        self.ended: list[str] = []
        self.gateway_bridge = wires.make(wires.line.gateway, lambda: self.ended.append("gateway"))
        self.client_bridge: Bridge
        self._wires = wires

    async def start(self) -> None:
        """Open the stream; the client's bridge is made when OPEN comes, and gets its socket with :meth:`dialled`."""
        gateway = self._wires.line.gateway
        self._wires.waiting.append(self)
        stream = gateway.open_stream(Target(25060), "10.0.0.1:5000", self.gateway_bridge)
        self.gateway_bridge.bind(stream)
        await self._wires.connect(self.gateway_bridge, self._gateway_socket)

    def opened(self, stream: Stream) -> StreamHandler:
        self.client_bridge = self._wires.make(self._wires.line.client, lambda: self.ended.append("client"))
        self.client_bridge.bind(stream)
        return self.client_bridge

    async def dialled(self) -> None:
        """The upstream was reached."""
        await until(lambda: hasattr(self, "client_bridge"), "OPEN")
        self._wires.line.client.accept_stream(self.client_bridge.stream)
        await self._wires.connect(self.client_bridge, self.client_socket)

    async def refused(self) -> None:
        await until(lambda: hasattr(self, "client_bridge"), "OPEN")
        self._wires.line.client.reject_stream(self.client_bridge.stream, ErrorCode.UPSTREAM_REFUSED, "refused")
        self.client_socket.close()

    def close(self) -> None:
        for sock in (self.app, self.upstream):
            sock.close()

    async def over(self) -> None:
        """Both bridges have let go, each once."""
        await until(lambda: len(self.ended) >= 2, f"the end of both bridges, only {self.ended}")
        assert sorted(self.ended) == ["client", "gateway"]


class Wires:
    """A line that runs by itself, and the connections bridged over it."""

    def __init__(self, kind: type[SocketBridge] | type[ProtocolBridge], limits: Limits | None, high_water: int) -> None:
        self.line = Line(gateway=limits, client=limits, high_water=high_water)
        self.line.owners[1].make_handler = lambda stream: self.waiting.pop(0).opened(stream)
        self.line.run_by_itself()
        self.waiting: list[Wire] = []
        self.wires: list[Wire] = []
        self._kind = kind

    def make(self, endpoint, on_end: Callable[[], None]) -> Bridge:
        return self._kind(endpoint, on_end)

    async def connect(self, bridge: Bridge, sock: socket.socket) -> None:
        if isinstance(bridge, SocketBridge):
            bridge.connect(sock)
        else:
            await asyncio.get_running_loop().create_connection(lambda: bridge, sock=sock)

    async def open(self, *, dial: bool = True) -> Wire:
        wire = Wire(self)
        self.wires.append(wire)
        await self.started()
        await wire.start()
        if dial:
            await wire.dialled()
        return wire

    async def started(self) -> None:
        await until(lambda: self.line.gateway.open and self.line.client.open, "HELLO")

    async def settled(self) -> None:
        """Nothing is on the way any more, and both sides' books agree."""
        for _ in range(5):
            await asyncio.sleep(0)
        await until(lambda: not any(transport.queue for transport in self.line.transports), "quiet")
        check_books(self.line)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def bridged(
    kind: type[SocketBridge] | type[ProtocolBridge], limits: Limits | None = None, high_water: int = 128 * 1024
) -> AsyncIterator[Wires]:
    """Run wires; at the end nothing may be left of them: no stream, no credit, no descriptor."""
    near, far = tcp_pair()  # what the loop opens once for all its transports is open before we count
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    transport.write(b"x")
    transport.abort()
    far.close()
    await until(lambda: near.fileno() < 0 or transport.is_closing(), "warm-up")
    for _ in range(3):
        await asyncio.sleep(0)
    before = open_descriptors()
    wires = Wires(kind, limits, high_water)
    await wires.started()
    yield wires
    for wire in wires.wires:
        wire.close()
    await until(lambda: all(len(wire.ended) == 2 for wire in wires.wires), "the end of all bridges")
    await wires.settled()
    await until(lambda: open_descriptors() <= before, f"descriptors closed: {before} before, {open_descriptors()} now")
