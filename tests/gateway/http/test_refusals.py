"""What no upstream ever sees: malformed requests, and those that two parsers could read in two ways."""

# ruff: noqa: E501 - a line of these tables is what is on the wire

from __future__ import annotations

import pytest

from tunnels.gateway.http import HttpLimits
from tunnels.gateway.http.requests import Route
from tunnels.protocol import Target

from .line import Echo, Line, open_line, until

HOST = b"Host: one.local\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST

REFUSED: dict[str, tuple[int, bytes]] = {
    "length and chunked": (400, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "the same length twice": (400, POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "a list of lengths": (400, POST + b"Content-Length: 3, 3\r\n\r\nabc"),
    "a signed length": (400, POST + b"Content-Length: +3\r\n\r\nabc"),
    "a negative length": (400, POST + b"Content-Length: -3\r\n\r\nabc"),
    "a hexadecimal length": (400, POST + b"Content-Length: 0x3\r\n\r\nabc"),
    "a length with a space inside": (400, POST + b"Content-Length: 1 1\r\n\r\nabc"),
    "an empty length": (400, POST + b"Content-Length:\r\n\r\n"),
    "an enormous length": (400, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "chunked in two headers": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked, then identity": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    "xchunked": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "gzip, chunked": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "identity": (400, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "an empty coding": (400, POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    "quoted chunked": (400, POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "chunked with a vertical tab": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "chunked on a folded line": (400, POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    "a space before the colon": (400, POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    "chunked in HTTP/1.0": (400, b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "Connection: Content-Length": (400, POST + b"Connection: Content-Length\r\nContent-Length: 3\r\n\r\nabc"),
    "Connection: Host": (400, b"GET / HTTP/1.1\r\n" + HOST + b"Connection: host\r\n\r\n"),
    "a folded header": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n"),
    "a folded first header": (400, b"GET / HTTP/1.1\r\n " + HOST + b"\r\n"),
    "bare LF after a header": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n"),
    "bare LF everywhere": (400, b"GET / HTTP/1.1\nHost: one.local\n\n"),
    "bare LF after the request line": (400, b"GET / HTTP/1.1\n" + HOST + b"\r\n"),
    "bare LF ends the head": (400, b"GET / HTTP/1.1\r\n" + HOST + b"\nX: a\r\n\r\n"),
    "a bare CR in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\r\n\r\n"),
    "NUL in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n"),
    "a control character in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x01b\r\n\r\n"),
    "DEL in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x7fb\r\n\r\n"),
    "a control character before the end has come": (400, b"\x16\x03\x01\x02"),
    "a space in a name": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X y: a\r\n\r\n"),
    "a name that is not ASCII": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X\xe9: a\r\n\r\n"),
    "an empty name": (400, b"GET / HTTP/1.1\r\n" + HOST + b": a\r\n\r\n"),
    "a line without a colon": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X\r\n\r\n"),
    "no Host": (400, b"GET / HTTP/1.1\r\nX: a\r\n\r\n"),
    "no Host in HTTP/1.0": (400, b"GET / HTTP/1.0\r\n\r\n"),
    "an empty Host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "Host twice": (400, b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\n" + HOST + b"host: two.local\r\n\r\n"),
    "a list of Hosts": (400, b"GET / HTTP/1.1\r\nHost: one.local, two.local\r\n\r\n"),
    "Host with a user": (400, b"GET / HTTP/1.1\r\nHost: me@one.local\r\n\r\n"),
    "Host with a path": (400, b"GET / HTTP/1.1\r\nHost: one.local/x\r\n\r\n"),
    "Host with a space": (400, b"GET / HTTP/1.1\r\nHost: one. local\r\n\r\n"),
    "Host with a bad port": (400, b"GET / HTTP/1.1\r\nHost: one.local:x\r\n\r\n"),
    "Host that is not ASCII": (400, b"GET / HTTP/1.1\r\nHost: \xc3\xb6ne.local\r\n\r\n"),
    "Host of 256 bytes": (400, b"GET / HTTP/1.1\r\nHost: " + b"a" * 256 + b"\r\n\r\n"),
    "Host that is a dot": (400, b"GET / HTTP/1.1\r\nHost: .\r\n\r\n"),
    "Host that is a dot and a port": (400, b"GET / HTTP/1.1\r\nHost: .:8000\r\n\r\n"),
    "Host that is a port": (400, b"GET / HTTP/1.1\r\nHost: :8000\r\n\r\n"),
    "Host of two dots": (400, b"GET / HTTP/1.1\r\nHost: ..\r\n\r\n"),
    "Host with an empty label": (400, b"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n"),
    "Host that begins with a dot": (400, b"GET / HTTP/1.1\r\nHost: .one.local\r\n\r\n"),
    "Host that ends in two dots": (400, b"GET / HTTP/1.1\r\nHost: one.local..\r\n\r\n"),
    "a target of another host": (400, b"GET http://two.local/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a target with a user": (400, b"GET http://me@one.local/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a target of another scheme": (400, b"GET ftp://one.local/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a target that is no path": (400, b"GET x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "* with GET": (400, b"GET * HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a fragment": (400, b"GET /#x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a target that is not ASCII": (400, b"GET /\xc3\xb6 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a space in the target": (400, b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a tab for a space": (400, b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a space after the version": (400, b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\n" + HOST + b"\r\n"),
    "a lower-case version": (400, b"GET / http/1.1\r\n" + HOST + b"\r\n"),
    "the HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "CONNECT": (501, b"CONNECT one.local:443 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "an unknown method": (501, b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a method in lower case": (501, b"get / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a head of 33 KiB": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 33_000 + b"\r\n\r\n"),
    "a head of 33 KiB without an end": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 33_000),
    "101 headers": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 100 + b"\r\n"),
    "an upgrade with a body": (400, POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc"),
    "an upgrade with chunks": (400, POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_is_refused_and_the_connection_closed(line: Line, name: str) -> None:
    status, request = REFUSED[name]
    echo = Echo()
    upstream = await line.serve("one.local", echo)
    app = await line.connect()
    app.send(request)
    response = await app.read_all()
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in response
    assert b"\r\nX-Moorline-Error: " in response
    assert response.count(b"\r\n\r\n") == 1  # one response
    assert upstream.connections == 0
    assert not line.client_side.targets


@pytest.mark.parametrize("host", [b".", b"..", b"a..b", b".a", b""])
async def test_no_host_leads_to_a_tcp_port(line: Line, host: bytes) -> None:
    upstream = await line.serve("", Echo())  # the name of a TCP port in OPEN
    app = await line.connect()
    app.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
    assert b"\r\nX-Moorline-Error: BAD_HOST\r\n" in await app.read_all()
    assert upstream.connections == 0


def test_a_route_without_a_host_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="never to a TCP port"):
        Route(b".", Target(8000), b"")


async def test_the_dot_of_the_root_is_no_other_host(line: Line) -> None:
    await line.serve("one.local", Echo())
    app = await line.connect()
    app.send(b"GET / HTTP/1.1\r\nHost: one.local.\r\n\r\n")
    assert (await app.read_response())[1] == b"hi"
    assert line.client_side.targets == [Target(8000, "one.local")]


CHUNKS = {
    "a size with 0x": b"0x5\r\nabcde\r\n0\r\n\r\n",
    "a size with a sign": b"+5\r\nabcde\r\n0\r\n\r\n",
    "a size with an underscore": b"1_0\r\nabcde\r\n0\r\n\r\n",
    "a size with a space": b"5 \r\nabcde\r\n0\r\n\r\n",
    "an empty size": b"\r\nabcde\r\n0\r\n\r\n",
    "a size that overflows": b"10000000000000005\r\nabcde\r\n0\r\n\r\n",
    "bare LF after a size": b"5\nabcde\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nb\r\nabcde\r\n0\r\n\r\n",
    "a bare CR in an extension": b"5;a\rb\r\nabcde\r\n0\r\n\r\n",
    "data longer than its size": b"5\r\nabcdefg\r\n0\r\n\r\n",
    "bare LF after data": b"5\r\nabcde\n0\r\n\r\n",
    "a malformed trailer": b"5\r\nabcde\r\n0\r\nX y: 1\r\n\r\n",
    "a folded trailer": b"5\r\nabcde\r\n0\r\nX: 1\r\n 2\r\n\r\n",
    "a size line without an end": b"5;" + b"a" * 5000,
    "endless trailers": b"0\r\n" + b"X: %b\r\n" % (b"a" * 1000) * 20,
}


@pytest.mark.parametrize("together", [True, False], ids=["with the head", "after the head"])
@pytest.mark.parametrize("name", CHUNKS)
async def test_a_malformed_chunk_ends_request_and_connection(line: Line, name: str, together: bool) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    app.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    if not together:
        await until(lambda: line.client_side.targets, "the request to begin")
    app.send(CHUNKS[name])
    response = await app.read_all()
    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"X-Moorline-Error: BAD_CHUNK\r\n" in response
    assert echo.requests == []


async def test_what_follows_a_refused_request_is_not_read(line: Line) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    app.send(POST + b"Content-Length: 3\r\nContent-Length: 0\r\n\r\nGET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await app.read_all()).startswith(b"HTTP/1.1 400 ")
    assert echo.requests == []


async def test_a_head_of_exactly_the_limits_passes(line: Line) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    start = b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 98 + b"Y: "
    app.send(start + b"b" * (32 * 1024 - len(start) - 4) + b"\r\n\r\n")
    assert (await app.read_response())[1] == b"hi"
    assert len(echo.requests) == 1


async def test_a_head_that_does_not_come_is_answered_with_408() -> None:
    async with open_line(HttpLimits(head_timeout=0.05)) as line:
        app = await line.connect()
        app.send(b"GET / HT")
        assert (await app.read_all()).startswith(b"HTTP/1.1 408 ")


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with open_line(HttpLimits(idle_timeout=0.05)) as line:
        await line.serve("one.local", Echo())
        app = await line.connect()
        app.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await app.read_all()).endswith(b"\r\n\r\nhi")


async def test_a_body_that_does_not_come_is_answered_with_408() -> None:
    async with open_line(HttpLimits(body_timeout=0.05)) as line:
        echo = Echo()
        upstream = await line.serve("one.local", echo)
        app = await line.connect()
        app.send(POST + b"Content-Length: 3\r\n\r\na")
        response = await app.read_all()
        assert response.startswith(b"HTTP/1.1 408 ")
        assert b"X-Moorline-Error: BODY_TIMEOUT\r\n" in response
        assert upstream.connections <= 1
        assert echo.requests == []
