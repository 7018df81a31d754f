"""Two sockets joined, on the loop that gateways run on and on asyncio's own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from tunnels.gateway.hop.splice import Splice
from tunnels.gateway.sockets import READ_SIZE

from ..conftest import BOUND, until

RESET = b"\1\0\0\0\0\0\0\0"
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Pair:
    """An application, the splice, and the other gateway's end."""

    def __init__(self, *, small: bool = False, small_holder: bool = False) -> None:
        self.ends = 0
        self.application, inner = connect(small=small)
        self.holder, outer = connect(small=small or small_holder)
        self.splice = Splice(inner, outer, self._end)

    def _end(self) -> None:
        self.ends += 1

    def close(self) -> None:
        self.application.close()
        self.holder.close()
        self.splice.abort()


def connect(*, small: bool) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection; with *small* buffers it is full soon."""
    with socket.socket() as listener:
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        one = socket.socket()
        if small:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.connect(listener.getsockname())
        other, _ = listener.accept()
        if small:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    one.setblocking(False)
    other.setblocking(False)
    return one, other


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run a coroutine function on one of the loops."""

    def run(work: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(BOUND):
                await work()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(bounded())

    return run


Run = Callable[[Callable[[], Awaitable[None]]], None]


async def receive(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (
        data := await asyncio.get_running_loop().sock_recv(sock, min(size - len(received), 65536))
    ):
        received += data
    return bytes(received)


async def receive_all(sock: socket.socket) -> bytes:
    return await receive(sock, 1 << 40)


def test_it_works(run: Run) -> None:
    async def work() -> None:
        pair = Pair()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(pair.application, b"question")
        assert await receive(pair.holder, 8) == b"question"
        await loop.sock_sendall(pair.holder, b"answer")
        assert await receive(pair.application, 6) == b"answer"
        pair.application.shutdown(socket.SHUT_WR)
        assert await receive_all(pair.holder) == b""
        await loop.sock_sendall(pair.holder, b"last words")
        pair.holder.shutdown(socket.SHUT_WR)
        assert await receive_all(pair.application) == b"last words"
        await until(lambda: pair.ends == 1, "the end")
        pair.close()
        assert pair.ends == 1

    run(work)


def test_bulk_passes_both_ways_at_once(run: Run) -> None:
    data = b"".join(hashlib.sha256(bytes([n])).digest() * 8192 for n in range(32))

    async def send(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    async def work() -> None:
        pair = Pair(small=True)
        *_, one, other = await asyncio.gather(
            send(pair.application), send(pair.holder), receive_all(pair.application), receive_all(pair.holder)
        )
        assert one == other == data
        await until(lambda: pair.ends == 1, "the end")
        pair.close()

    run(work)


@pytest.mark.parametrize("side", ["application", "holder"])
def test_a_reset_is_passed_on(run: Run, side: str) -> None:
    async def work() -> None:
        pair = Pair()
        loop = asyncio.get_running_loop()
        one, other = (pair.application, pair.holder) if side == "application" else (pair.holder, pair.application)
        await loop.sock_sendall(one, b"the last bytes")
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.close()
        with pytest.raises(ConnectionResetError):
            await receive_all(other)
        await until(lambda: pair.ends == 1, "the end")
        pair.close()

    run(work)


def fill(sock: socket.socket) -> int:
    """Write until nothing is taken any more, and return how much was."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(READ_SIZE))
    return sent


def test_a_reader_that_takes_nothing_holds_up_the_sender(run: Run) -> None:
    async def work() -> None:
        pair = Pair(small_holder=True)
        sent, quiet = 0, 0
        while quiet < 20:
            more = fill(pair.application)
            quiet = 0 if more else quiet + 1
            sent += more
            await asyncio.sleep(0.005)
        held = sum(len(way._held) for way in pair.splice._ways)
        assert 0 < held <= READ_SIZE
        assert sent < 16 * 1024 * 1024, "kernel buffers and one read, whatever the sender has"
        pair.application.shutdown(socket.SHUT_WR)
        assert len(await receive_all(pair.holder)) == sent
        pair.close()

    run(work)


def test_a_socket_that_breaks_while_nobody_reads_it_is_found(run: Run) -> None:
    async def work() -> None:
        pair = Pair(small=True)
        while not pair.splice._ways[0]._held:
            fill(pair.application)
            await asyncio.sleep(0)
        pair.application.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        pair.application.close()

        def found() -> bool:
            pair.splice.check()
            return pair.ends == 1

        await until(found, "the end")
        with pytest.raises(ConnectionResetError):
            await receive_all(pair.holder)
        pair.close()

    run(work)


def test_a_check_leaves_alone_what_is_well(run: Run) -> None:
    async def work() -> None:
        pair = Pair()
        pair.application.shutdown(socket.SHUT_WR)
        assert await receive_all(pair.holder) == b""
        pair.splice.check()
        await asyncio.get_running_loop().sock_sendall(pair.holder, b"an answer")
        assert await receive(pair.application, 9) == b"an answer"
        assert pair.ends == 0
        pair.close()

    run(work)
