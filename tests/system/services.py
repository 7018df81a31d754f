"""Services of the customer's network, and applications of the cluster that use them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from quickstart.ports import LOOPBACK

BOUND = 20.0  # seconds
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Services:
    """TCP services that end with a test; `connections` counts those that are open."""

    def __init__(self) -> None:
        self.connections = 0
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, handle: Handle, port: int = 0, host: str = LOOPBACK) -> str:
        """Start a service and return its address."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            self.connections += 1
            try:
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await handle(reader, writer)
            finally:
                self.connections -= 1
                self._tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, host, port, backlog=2048)
        self._servers.append(server)
        return f"{host}:{server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give back every byte, and the half-close."""
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def greet(name: str) -> Handle:
    """Return a service that says *name* and no more."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        writer.write_eof()
        await reader.read()

    return handle


def answer_http(name: str) -> Handle:
    """Return an HTTP service that answers each request with *name* and the Host that was asked for."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            host = next(line for line in head.decode().split("\r\n") if line.lower().startswith("host:"))
            body = f"{name} for {host[5:].strip()}".encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await handle(reader, writer)

    return serve


async def ask(port: int, question: bytes = b"", bound: float = BOUND, host: str = LOOPBACK) -> bytes:
    """Connect, send *question* with a half-close, and return all that comes back."""
    async with asyncio.timeout(bound):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            with contextlib.suppress(ConnectionError):  # reset already; reading says so
                writer.write(question)
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


async def answers(port: int) -> bool:
    """Tell whether an echo answers on *port* through the tunnel."""
    try:
        return await ask(port, b"are you there?", 5) == b"are you there?"
    except (OSError, TimeoutError):
        return False


class Conversation:
    """An application that keeps a connection to an echo and asks it again and again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> Conversation:
        """Connect, and make sure that the echo answers."""
        conversation = cls(*await asyncio.open_connection(LOOPBACK, port))
        sock: socket.socket = conversation.writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await conversation.ask()
        return conversation

    async def ask(self, size: int = 64, bound: float = BOUND) -> float:
        """Have *size* bytes echoed and return the seconds it took."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        self.writer.write(bytes(size))
        async with asyncio.timeout(bound):
            assert await self.reader.readexactly(size) == bytes(size)
        return loop.time() - started

    async def wait_for_reset(self, bound: float) -> float:
        """Wait until the connection is reset, and return the seconds it took; an end without a reset fails."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(bound):
                rest = await self.reader.read()
        except ConnectionResetError:
            return loop.time() - started
        raise AssertionError(f"the connection ended as if all were well, after {rest!r}")

    def close(self) -> None:
        self.writer.close()
