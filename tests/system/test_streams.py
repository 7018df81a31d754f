"""What passes through the real client: bulk, half-closes, refusals, many connections."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio

from quickstart.ports import LOOPBACK
from tests.gateway.conftest import until
from tests.programs import require_program

from .installation import Gateway, Installation, Line
from .programs import MEGABYTE, Program, Programs, choose_port
from .services import Services, answers, ask, echo

BLOCK = 1_000_003  # bytes; no multiple of a frame, so that frames in another order are noticed


class Peer:
    """One end of a connection that sends *size* bytes and receives at the same time, on threads of its own."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = hashlib.sha256()
        self.received = hashlib.sha256()
        self.received_size = 0

    def run(self, sock: socket.socket) -> None:
        sock.settimeout(50)
        sending = threading.Thread(target=self._send, args=(sock,), daemon=True)
        sending.start()
        buffer = bytearray(MEGABYTE)
        while count := sock.recv_into(buffer):
            self.received.update(memoryview(buffer)[:count])
            self.received_size += count
        sending.join(50)
        assert not sending.is_alive()
        sock.close()

    def _send(self, sock: socket.socket) -> None:
        block = bytearray(os.urandom(BLOCK))
        left, number = self.size, 0
        while left:
            block[:8] = number.to_bytes(8, "big")
            piece = memoryview(block)[: min(left, BLOCK)]
            self.sent.update(piece)
            sock.sendall(piece)
            left -= len(piece)
            number += 1
        sock.shutdown(socket.SHUT_WR)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket of the customer's that waits for one connection."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.settimeout(20)
        yield listener


@pytest.mark.timeout(120)
async def test_256_mb_each_way_at_once_arrive_equal_to_the_byte(
    installation: Installation, programs: Programs, gateway: Gateway, listener: socket.socket
) -> None:
    line = await installation.make_line(2222)
    await installation.start_client(programs, line, gateway, f"2222=127.0.0.1:{listener.getsockname()[1]}")
    near, far = Peer(256 * MEGABYTE), Peer(256 * MEGABYTE)

    def serve() -> None:
        far.run(listener.accept()[0])

    def use() -> None:
        near.run(socket.create_connection((LOOPBACK, line.port), timeout=20))

    with ThreadPoolExecutor(2) as threads:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(110):
            await asyncio.gather(loop.run_in_executor(threads, serve), loop.run_in_executor(threads, use))
    assert (near.received_size, far.received_size) == (far.size, near.size)
    assert near.received.digest() == far.sent.digest()
    assert far.received.digest() == near.sent.digest()


async def test_half_close_lets_both_sides_finish(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services
) -> None:
    heard: list[bytes] = []

    async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.write(b"you said " + heard[-1] * 100_000)
        writer.write_eof()

    async def speak_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all I say")
        writer.write_eof()
        heard.append(await reader.read())

    line = await installation.make_line(1, 2)
    address, other = await services.start(answer_after_the_end), await services.start(speak_first)
    await installation.start_client(programs, line, gateway, f"1={address}", f"2={other}")
    assert await ask(line.listeners[1], b"x") == b"you said " + b"x" * 100_000

    reader, writer = await asyncio.open_connection(LOOPBACK, line.listeners[2])
    assert await asyncio.wait_for(reader.read(), 10) == b"all I say"
    writer.write(b"and I answer")
    writer.write_eof()
    await until(lambda: heard == [b"x", b"and I answer"], "the answer after the half-close")
    writer.close()


@pytest.mark.wide
async def test_nc_gets_its_whole_answer(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services
) -> None:
    nc = require_program("nc")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.read())
        writer.write_eof()

    line = await installation.make_line(1)
    await installation.start_client(programs, line, gateway, f"1={await services.start(answer)}")
    command = f"printf x | {nc} -N {LOOPBACK} {line.port}"
    done = await asyncio.to_thread(subprocess.run, command, shell=True, capture_output=True, timeout=20, check=True)
    assert done.stdout == b"you said x"


async def test_a_refused_upstream_resets_the_connection_within_a_second(
    installation: Installation, programs: Programs, gateway: Gateway
) -> None:
    line = await installation.make_line(1, 2)
    refusing = choose_port()
    client = await installation.start_client(programs, line, gateway, f"1={LOOPBACK}:{refusing}")
    for port in line.listeners[1], line.listeners[2]:  # the second is not on the client's list
        with pytest.raises(ConnectionResetError):
            await ask(port, b"SELECT 1", bound=1.0)
    assert client.find(f"upstream {LOOPBACK}:{refusing} for port 1", "refused")
    assert client.find("port 2", "--upstream 2=HOST:PORT")


async def speak_and_reset(writer: asyncio.StreamWriter) -> None:
    """Say the last words and reset the connection in one go."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(b"last words")
    writer.transport.abort()
    await until(lambda: sock.fileno() == -1, "the reset to be on its way")


async def test_a_reset_right_behind_the_last_bytes_of_a_service_is_felt(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services, line: Line
) -> None:
    upstream: list[asyncio.StreamWriter] = []

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.append(writer)
        await reader.read()

    client = await installation.start_client(programs, line, gateway, f"1={await services.start(wait)}")
    reader, writer = await asyncio.open_connection(LOOPBACK, line.port)
    await until(lambda: upstream, "the connection to the service")
    client.signal(signal.SIGSTOP)  # so that it meets both at once
    await speak_and_reset(upstream[0])
    client.signal(signal.SIGCONT)
    assert await asyncio.wait_for(reader.readexactly(10), 10) == b"last words"
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def test_a_reset_right_behind_the_last_bytes_of_an_application_is_felt(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services, line: Line
) -> None:
    heard: list[bytes | str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                heard.append(data)
        except ConnectionResetError:
            heard.append("reset")

    await installation.start_client(programs, line, gateway, f"1={await services.start(listen)}")
    _, writer = await asyncio.open_connection(LOOPBACK, line.port)
    await until(lambda: services.connections == 1, "the connection to the service")
    gateway.program.signal(signal.SIGSTOP)
    await speak_and_reset(writer)
    gateway.program.signal(signal.SIGCONT)
    await until(lambda: heard == [b"last words", "reset"], lambda: f"the last words and a reset, heard {heard}")


@pytest_asyncio.fixture(loop_scope="session")
async def line(installation: Installation, gateway: Gateway) -> Line:
    """A tunnel with one port."""
    return await installation.make_line(1)


class Census:
    """What a gateway and a client hold, to compare with later."""

    def __init__(self, gateway: Gateway, client: Program) -> None:
        self._programs = (gateway.program, client)
        self.descriptors = [program.descriptors for program in self._programs]
        self.memory = [program.memory for program in self._programs]

    async def check(self, port: int, services: Services, memory: int) -> list[int]:
        """Wait until both hold no more descriptors than before, no service a connection, and the line still works.

        Returns how much memory each took more, which must be below *memory*.
        """

        def describe() -> str:
            now = [program.descriptors for program in self._programs]
            return f"descriptors to be let go: {self.descriptors} before, {now} now, {services.connections} upstream"

        def let_go() -> bool:
            now = [program.descriptors for program in self._programs]
            return services.connections == 0 and all(a <= b for a, b in zip(now, self.descriptors, strict=True))

        await until(let_go, describe)
        assert await answers(port)
        grown = [program.memory - was for program, was in zip(self._programs, self.memory, strict=True)]
        assert max(grown) < memory, f"gateway and client grew by {grown} bytes"
        return grown


async def test_a_thousand_streams_at_once_leave_nothing_behind(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services, line: Line
) -> None:
    client = await installation.start_client(programs, line, gateway, f"1={await services.start(echo)}")
    assert await answers(line.port)
    await until(lambda: services.connections == 0, "the first connection to end")
    before = Census(gateway, client)
    connections = []
    try:
        for _ in range(20):
            opening = [asyncio.open_connection(LOOPBACK, line.port) for _ in range(50)]
            connections += await asyncio.gather(*opening)
        for number, (_, writer) in enumerate(connections):
            writer.write(b"%04d" % number)
        said = [await asyncio.wait_for(reader.readexactly(4), 20) for reader, _ in connections]
        assert said == [b"%04d" % number for number in range(1000)]
        assert services.connections == 1000
        assert len(await installation.staff.do("list_sessions", line.tunnel_id)) == 1
    finally:
        for _, writer in connections:
            writer.close()
    await before.check(line.port, services, memory=64 * MEGABYTE)


def connect_in_turn(port: int, count: int) -> None:
    """Open *count* connections, one after another; each must get back what it says."""
    for number in range(count):
        with socket.create_connection((LOOPBACK, port), timeout=20) as sock:
            sock.sendall(b"%d" % number)
            sock.shutdown(socket.SHUT_WR)
            said = b""
            while data := sock.recv(64):
                said += data
            assert said == b"%d" % number


@pytest.mark.timeout(180)
async def test_10_000_short_connections_one_after_another_leave_nothing_behind(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services, line: Line
) -> None:
    client = await installation.start_client(programs, line, gateway, f"1={await services.start(echo)}")
    await asyncio.to_thread(connect_in_turn, line.port, 100)
    await until(lambda: services.connections == 0, "the first connections to end")
    before = Census(gateway, client)
    await asyncio.to_thread(connect_in_turn, line.port, 10_000)
    grown = await before.check(line.port, services, memory=16 * MEGABYTE)
    print(f"10,000 connections: gateway and client grew by {grown} bytes")
