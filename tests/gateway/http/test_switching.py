"""WebSocket and any other 101: both directions raw from then on."""

from __future__ import annotations

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from .line import Line, until

UPGRADE = b"GET /x HTTP/1.1\r\nHost: one.local\r\nConnection: keep-alive, Upgrade\r\nUpgrade: Echo/1\r\n\r\n"


async def test_a_websocket_passes(line: Line) -> None:
    paths = []

    async def echo(socket: ServerConnection) -> None:
        assert socket.request is not None
        paths.append(socket.request.path)
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        line.hosts["one.local"] = server.sockets[0].getsockname()[1]
        async with connect("ws://one.local:80/chat", host="127.0.0.1", port=line.port) as socket:
            for message in ("hello", b"\x00" * 200_000, ""):
                await socket.send(message)
                assert await socket.recv() == message
        assert socket.close_code == 1000
    assert paths == ["/chat"]
    await until(lambda: line.gateway.streams == 0 and not line.connections, "both sides to end")


async def _switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Connection: Upgrade\r\nUpgrade: Echo/1\r\n" in head
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: Echo/1\r\n\r\nfirst")
    writer.write(b"<" + await reader.read() + b">")
    writer.write_eof()


async def test_after_101_each_direction_ends_by_itself(line: Line) -> None:
    await line.serve("one.local", _switch)
    app = await line.connect()
    app.send(UPGRADE)
    head = await app.read_head()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: Echo/1\r\n")
    assert await app.read(5) == b"first"
    app.send(b"GET / HTTP/1.1\n\0" * 10_000)
    app.writer.write_eof()
    assert await app.read_all() == b"<" + b"GET / HTTP/1.1\n\0" * 10_000 + b">"
    await until(lambda: line.gateway.streams == 0 and not line.connections, "both sides to end")


async def test_bytes_sent_ahead_of_the_101_are_not_lost(line: Line) -> None:
    await line.serve("one.local", _switch)
    app = await line.connect()
    app.send(UPGRADE + b"early")
    app.writer.write_eof()
    assert (await app.read_all()).endswith(b"\r\n\r\nfirst<early>")


async def test_the_upstream_may_end_first(line: Line) -> None:
    received = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: Echo/1\r\n\r\nbye")
        writer.write_eof()
        received.append(await reader.read())

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(UPGRADE)
    assert (await app.read_all()).endswith(b"bye")
    app.send(b"still here")
    app.writer.write_eof()
    await until(lambda: received == [b"still here"], "what was said after the upstream's end")


async def test_a_refused_upgrade_leaves_a_connection_for_more(line: Line) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    upstream = await line.serve("one.local", answer)
    app = await line.connect()
    for _ in range(2):
        head, _ = await app.ask(UPGRADE)
        assert head.startswith(b"HTTP/1.1 403 ")
    assert upstream.connections == 1
