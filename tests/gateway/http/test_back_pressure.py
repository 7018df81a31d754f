"""Whoever does not read stops whoever sends; the gateway holds little in between."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc

from tunnels.gateway.http import HttpLimits

from .line import Line, open_line, read_request, until

SIZE = 40_000_000
GET = b"GET / HTTP/1.1\r\nHost: one.local\r\n\r\n"
BLOCK = bytes(range(256)) * 256


class Sender:
    """Answers with SIZE bytes and knows how many of them it could write."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        while self.sent < SIZE:
            data = BLOCK[: SIZE - self.sent]
            writer.write(data)
            await writer.drain()
            self.sent += len(data)


async def come_to_rest(progress: list[int], measure: Sender | None = None) -> None:
    """Wait until nothing moves any more: the same count in fifty turns of the loop, each with a little time."""
    last, quiet = -1, 0
    async with asyncio.timeout(20):
        while quiet < 50:
            now = measure.sent if measure is not None else progress[0]
            quiet, last = (quiet + 1, last) if now == last else (0, now)
            await asyncio.sleep(0.002)


async def test_an_application_that_does_not_read_stops_its_upstream(line: Line) -> None:
    sender = Sender()
    await line.serve("one.local", sender)
    app = await line.connect(receive_buffer=65536)
    app.writer.transport.pause_reading()  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        app.send(GET)
        await come_to_rest([], sender)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < sender.sent < SIZE / 2
    # both sides and the test live in this process; a stream's window is 256 KiB where nobody hurries
    assert held < 8_000_000
    (stream,) = line.gateway.session.streams.values()
    assert stream.receive.unconsumed > 0
    app.writer.transport.resume_reading()  # type: ignore[attr-defined]
    head = await app.read_head()
    assert b"Content-Length: %d\r\n" % SIZE in head
    digest, left = hashlib.sha256(), SIZE
    while left:
        data = await app.reader.read(1 << 20)
        digest.update(data)
        left -= len(data)
    whole = hashlib.sha256()
    for at in range(0, SIZE, len(BLOCK)):
        whole.update(BLOCK[: SIZE - at])
    assert digest.digest() == whole.digest()
    await until(lambda: stream.receive.unconsumed == 0, "all credit to be given back")


async def test_an_upstream_that_does_not_read_stops_its_application(line: Line) -> None:
    release = asyncio.Event()
    digest = hashlib.sha256()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await release.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        left = SIZE
        while left:
            data = await reader.read(1 << 20)
            digest.update(data)
            left -= len(data)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    await line.serve("one.local", answer)
    app = await line.connect()
    sent = [0]
    whole = hashlib.sha256()

    async def upload() -> None:
        app.send(b"POST / HTTP/1.1\r\nHost: one.local\r\nContent-Length: %d\r\n\r\n" % SIZE)
        while sent[0] < SIZE:
            data = BLOCK[: SIZE - sent[0]]
            app.send(data)
            whole.update(data)
            await app.writer.drain()
            sent[0] += len(data)

    task = asyncio.create_task(upload())
    await come_to_rest(sent)
    assert 0 < sent[0] < SIZE / 2
    (connection,) = line.connections
    assert len(connection._input) <= 65536
    assert connection._upstream is not None
    assert len(connection._upstream._ahead) <= 65536 + 1024
    release.set()
    assert (await app.read_head()).startswith(b"HTTP/1.1 204 ")
    await task
    assert digest.digest() == whole.digest()


async def test_a_pipelining_application_is_not_read_while_a_request_is_under_way(line: Line) -> None:
    release = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            await release.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    await line.serve("one.local", answer)
    app = await line.connect()
    count = 4_000
    app.send(GET * count)
    (connection,) = line.connections
    await until(lambda: connection._reading_paused, "reading to pause")
    assert 0 < len(connection._input) <= 65536
    release.set()
    for _ in range(count):
        assert (await app.read_response())[1] == b"hi"


async def test_an_application_that_never_reads_is_cut_off_in_time() -> None:
    async with open_line(HttpLimits(stall_timeout=0.2)) as line:
        await line.serve("one.local", Sender())
        app = await line.connect(receive_buffer=65536)
        app.writer.transport.pause_reading()  # type: ignore[attr-defined]
        app.send(GET)
        await until(lambda: line.ended == 1, "the connection to be cut")
        await until(lambda: line.gateway.streams == line.client.streams == 0, "the stream to end")
