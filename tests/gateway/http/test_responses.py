"""What reaches the application, byte by byte."""

# ruff: noqa: E501 - a line of these tables is what is on the wire

from __future__ import annotations

import asyncio

import pytest

from tunnels.gateway.http import HttpLimits
from tunnels.protocol import ErrorCode

from .line import Echo, Line, open_line, read_request, until

GET = b"GET / HTTP/1.1\r\nHost: one.local\r\nX-Request-Id: abc\r\n\r\n"
LAST = GET.replace(b"Host", b"Connection: close\r\nHost")
HEAD = LAST.replace(b"GET", b"HEAD")
OLD = GET.replace(b"1.1", b"1.0")
ID = b"X-Request-Id: abc\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CLOSE = b"Connection: close\r\n"
CHUNKS = b"3;x=1\r\nab\n\r\n1\r\n!\r\n0\r\nT: 1\r\n\r\n"

# name: request, what the upstream says, what the application gets up to a clean end
PASSED: dict[str, tuple[bytes, bytes, bytes]] = {
    "a length": (LAST, OK + b"content-length: 2\r\n\r\nhi", OK + b"content-length: 2\r\n" + CLOSE + ID + b"\r\nhi"),
    "a length of 0": (LAST, OK + b"Content-Length: 0\r\n\r\n", OK + b"Content-Length: 0\r\n" + CLOSE + ID + b"\r\n"),
    "a reason that is missing": (
        LAST, b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 \r\nContent-Length: 0\r\n" + CLOSE + ID + b"\r\n",
    ),
    "chunks with trailers": (
        LAST, OK + b"Transfer-Encoding: chunked\r\nA: 1\r\n\r\n" + CHUNKS,
        OK + b"A: 1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + ID + b"\r\n" + CHUNKS,
    ),
    "chunks for HTTP/1.0": (
        OLD, OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS, OK + CLOSE + ID + b"\r\nab\n!",
    ),
    "chunks for HTTP/1.0 that would keep the connection": (
        OLD.replace(b"Host", b"Connection: keep-alive\r\nHost"),
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS, OK + CLOSE + ID + b"\r\nab\n!",
    ),
    "until the end": (GET, OK + b"A: 1\r\n\r\nhi there", OK + b"A: 1\r\n" + CLOSE + ID + b"\r\nhi there"),
    "until the end, of HTTP/1.0": (GET, b"HTTP/1.0 200 OK\r\n\r\nhi", OK + CLOSE + ID + b"\r\nhi"),
    "a length, of HTTP/1.0": (
        LAST, b"HTTP/1.0 404 No\r\nContent-Length: 2\r\n\r\nhi", b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n" + CLOSE + ID + b"\r\nhi",
    ),
    "HEAD with a length": (HEAD, OK + b"Content-Length: 9\r\n\r\n", OK + b"Content-Length: 9\r\n" + CLOSE + ID + b"\r\n"),
    "HEAD with chunks": (
        HEAD, OK + b"Transfer-Encoding: chunked\r\n\r\n", OK + b"Transfer-Encoding: chunked\r\n" + CLOSE + ID + b"\r\n",
    ),
    "HEAD without framing": (HEAD, OK + b"\r\n", OK + CLOSE + ID + b"\r\n"),
    "204, which has no body and no framing": (
        LAST, b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 204 No Content\r\n" + CLOSE + ID + b"\r\n",
    ),
    "304, which has a length and no body": (
        LAST, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n" + CLOSE + ID + b"\r\n",
    ),
    "103 and then 200": (
        LAST, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"Content-Length: 2\r\n" + CLOSE + ID + b"\r\nhi",
    ),
    "no 103 for HTTP/1.0": (
        OLD, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
        OK + b"Content-Length: 2\r\n" + CLOSE + ID + b"\r\nhi",
    ),
    "hop-by-hop headers, and what is ours to say": (
        LAST, OK + b"Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\n"
        b"X-Moorline-Error: NO_SESSION\r\nX-Request-Id: theirs\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhi",
        OK + b"Content-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n" + CLOSE + ID + b"\r\nhi",
    ),
    "a framing header that Connection lists stays": (
        LAST, OK + b"Connection: Content-Length\r\nContent-Length: 2\r\n\r\nhi", OK + b"Content-Length: 2\r\n" + CLOSE + ID + b"\r\nhi",
    ),
    "426 says to what": (
        LAST, b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + CLOSE + ID + b"\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", PASSED)
async def test_a_response_passes(line: Line, name: str, cut: bool) -> None:
    request, said, expected = PASSED[name]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in [said[i : i + 1] for i in range(len(said))] if cut else [said]:
            writer.write(piece)
            await asyncio.sleep(0)

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(request)
    assert await app.read_all() == expected


BROKEN = {
    "garbage": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "nothing": b"",
    "half a head": OK + b"Content-Le",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF inside": OK + b"A: 1\nB: 2\r\n\r\n",
    "a folded header": OK + b"A: 1\r\n 2\r\n\r\n",
    "a space before a colon": OK + b"Content-Length : 2\r\n\r\nhi",
    "NUL": OK + b"A: \0\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "a status of 99": b"HTTP/1.1 099 OK\r\n\r\n",
    "a status of 600": b"HTTP/1.1 600 OK\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "a list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nhi",
    "a bad length": OK + b"Content-Length: -2\r\n\r\nhi",
    "chunked with a length": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    "a head of 65 KiB": OK + b"A: " + b"a" * 66_000 + b"\r\n\r\n",
    "a head without an end": OK + b"A: " + b"a" * 66_000,
    "201 headers": OK + b"A: 1\r\n" * 201 + b"\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_response_becomes_502(line: Line, name: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(await read_request(reader)):
            writer.write(BROKEN[name])

    await line.serve("one.local", answer)
    app = await line.connect()
    response, body = await app.ask(GET)
    assert response.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    code = b"UPSTREAM_CLOSED" if name in ("nothing", "half a head") else b"BAD_RESPONSE"
    assert b"X-Moorline-Error: " + code + b"\r\n" in response
    assert b"Failed at: upstream." in body
    assert b"\r\nConnection: keep-alive\r\n" in response
    await line.serve("one.local", Echo())
    assert (await app.ask(GET))[1] == b"hi"


CUT = {
    "short of its length": OK + b"Content-Length: 5\r\n\r\nhi",
    "in a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhi",
    "before the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
    "in the trailers": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n",
    "with a malformed chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nx\r\n",
}


@pytest.mark.parametrize("request_bytes", [GET, OLD], ids=["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("name", CUT)
async def test_a_response_cut_short_never_looks_whole(line: Line, name: str, request_bytes: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CUT[name])

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(request_bytes)
    with pytest.raises(ConnectionResetError):
        await app.read_all()


async def test_an_upstream_reset_in_the_middle_resets_the_application(line: Line) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"\r\nhi")
        await asyncio.Event().wait()

    upstream = await line.serve("one.local", answer)
    app = await line.connect()
    app.send(GET)
    await app.read_head()
    await until(lambda: upstream.tasks, "the upstream's connection")
    (bridge,) = line.client_side.bridges
    bridge.give_up(ErrorCode.CANCELLED, "the upstream went away")
    with pytest.raises(ConnectionResetError):
        await app.read_all()


async def test_100_continue_passes_before_the_body(line: Line) -> None:
    received = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue\r\n" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        received.append(await reader.readexactly(5))
        writer.write(OK + b"Content-Length: 0\r\n\r\n")

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(b"POST / HTTP/1.1\r\nHost: one.local\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert await app.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    app.send(b"hello")
    assert (await app.read_head()).startswith(OK)
    assert received == [b"hello"]


async def test_a_response_before_the_end_of_the_request_closes_the_connection(line: Line) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(b"POST / HTTP/1.1\r\nHost: one.local\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
    response = await app.read_all()
    assert response.startswith(b"HTTP/1.1 413 Too Large\r\n")
    assert CLOSE in response
    assert response.endswith(b"\r\n\r\nno")


async def test_both_bodies_may_flow_at_once(line: Line) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Content-Length: 6\r\n\r\n")
        for _ in range(3):
            writer.write((await reader.readexactly(2)).upper())

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(b"POST / HTTP/1.1\r\nHost: one.local\r\nContent-Length: 6\r\n\r\n")
    await app.read_head()
    for pair in (b"ab", b"cd", b"ef"):
        app.send(pair)
        assert await app.read(2) == pair.upper()


async def test_an_application_that_half_closes_gets_its_response(line: Line) -> None:
    release = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await release.wait()
        writer.write(OK + b"Content-Length: 2\r\n\r\nhi")
        await reader.read()

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(GET)
    app.writer.write_eof()
    await until(lambda: any(connection._eof for connection in line.connections), "the half-close")
    release.set()
    response = await app.read_all()
    assert response == OK + b"Content-Length: 2\r\n" + CLOSE + ID + b"\r\nhi"


async def test_a_response_head_that_does_not_come_is_a_504() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        assert await reader.read() == b""

    async with open_line(HttpLimits(response_timeout=0.05)) as line:
        upstream = await line.serve("one.local", answer)
        app = await line.connect()
        response, body = await app.ask(GET)
        assert response.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        assert b"X-Moorline-Error: RESPONSE_TIMEOUT\r\n" in response
        assert b"one.local" in body
        await until(lambda: not upstream.tasks, "the upstream's connection to end")
        assert line.gateway.streams == 0
