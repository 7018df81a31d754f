"""What reaches the upstream, byte by byte."""

# ruff: noqa: E501 - a line of these tables is what is on the wire

from __future__ import annotations

import asyncio
import itertools
import re
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnels.endpoint import Endpoint, StreamHandler
from tunnels.gateway.http import HttpConnection, HttpLimits
from tunnels.gateway.http.framing import ChunkedBody
from tunnels.protocol import ErrorCode, Stream, Target
from tunnels.protocol.windows import ReceiveWindow, SendWindow

from .line import Echo, Line

FORWARDED = (
    b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Port: 8000\r\n"
)


def head(first: bytes, *lines: bytes, host: bytes = b"one.local", request_id: bytes = b"abc") -> bytes:
    """Return the head that an upstream must get."""
    return b"\r\n".join((first, *lines, b"")) + FORWARDED % host + b"X-Request-Id: " + request_id + b"\r\n\r\n"


async def test_it_works(line: Line) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    response, body = await app.ask(b"GET /x?y=1 HTTP/1.1\r\nHost: one.local\r\nX-Request-Id: abc\r\n\r\n")
    assert response == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Request-Id: abc\r\n\r\n"
    assert body == b"hi"
    assert echo.requests == [head(b"GET /x?y=1 HTTP/1.1", b"Host: one.local")]
    assert line.client_side.targets == [Target(8000, "one.local")]


ID = b"X-Request-Id: abc\r\n"

REWRITES = {
    "header names, order and spacing are kept": (
        b"GET / HTTP/1.1\r\nHost: one.local\r\nuser-AGENT:  x \r\nX-A: 1\r\nX-A: 2\r\n" + ID + b"\r\n",
        head(b"GET / HTTP/1.1", b"Host: one.local", b"user-AGENT: x ", b"X-A: 1", b"X-A: 2"),
    ),
    "hop-by-hop headers and what Connection lists are removed": (
        b"GET / HTTP/1.1\r\nHost: one.local\r\nConnection: keep-alive, X-Secret\r\nKeep-Alive: timeout=5\r\nX-Secret: 1\r\n"
        b"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: gzip\r\nTrailer: A\r\nX-Kept: 1\r\n" + ID + b"\r\n",
        head(b"GET / HTTP/1.1", b"Host: one.local", b"X-Kept: 1"),
    ),
    "TE keeps trailers and nothing else": (
        b"GET / HTTP/1.1\r\nHost: one.local\r\nTE: gzip, trailers\r\nConnection: TE\r\n" + ID + b"\r\n",
        head(b"GET / HTTP/1.1", b"Host: one.local", b"Connection: TE", b"TE: trailers"),
    ),
    "the application's own X-Forwarded-Proto, -Host and -Port are not believed": (
        b"GET / HTTP/1.1\r\nHost: one.local\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n"
        b"X_Forwarded_Host: evil\r\nContent_Length: 7\r\n" + ID + b"\r\n",
        head(b"GET / HTTP/1.1", b"Host: one.local"),
    ),
    "HTTP/1.0 goes on as HTTP/1.1": (
        b"GET / HTTP/1.0\r\nHost: one.local\r\n" + ID + b"\r\n",
        head(b"GET / HTTP/1.1", b"Host: one.local"),
    ),
    "an absolute target becomes a path": (
        b"GET HTTP://ONE.local?q HTTP/1.1\r\nHost: one.local\r\n" + ID + b"\r\n",
        head(b"GET /?q HTTP/1.1", b"Host: one.local"),
    ),
    "OPTIONS * stays": (
        b"OPTIONS * HTTP/1.1\r\nHost: one.local\r\n" + ID + b"\r\n",
        head(b"OPTIONS * HTTP/1.1", b"Host: one.local"),
    ),
    "one empty line before a request is ignored": (
        b"\r\nGET / HTTP/1.1\r\nHost: one.local\r\n" + ID + b"\r\n",
        head(b"GET / HTTP/1.1", b"Host: one.local"),
    ),
    "an upgrade to h2c is not asked for": (
        b"GET / HTTP/1.1\r\nHost: one.local\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
        + ID + b"\r\n",
        head(b"GET / HTTP/1.1", b"Host: one.local"),
    ),
    "Upgrade without Connection is not passed on": (
        b"GET / HTTP/1.1\r\nHost: one.local\r\nUpgrade: websocket\r\n" + ID + b"\r\n",
        head(b"GET / HTTP/1.1", b"Host: one.local"),
    ),
    "a body with a length passes": (
        b"POST / HTTP/1.1\r\nHost: one.local\r\nContent-Length: 5\r\n" + ID + b"\r\nab\r\nc",
        head(b"POST / HTTP/1.1", b"Host: one.local", b"Content-Length: 5", b"X-Request-Id: abc")
        .replace(b"X-Request-Id: abc\r\nX-F", b"X-F") + b"ab\r\nc",
    ),
    "a chunked body passes as it is, without its trailers": (
        b"POST / HTTP/1.1\r\nHost: one.local\r\nTransfer-Encoding: CHUNKED\r\n" + ID
        + b"\r\n3;x=\"y\"\r\nab\r\r\nA\r\n0123456789\r\n000\r\nContent-Length: 9\r\nX-T: 1\r\n\r\n",
        head(b"POST / HTTP/1.1", b"Host: one.local", b"Transfer-Encoding: chunked")
        + b"3;x=\"y\"\r\nab\r\r\nA\r\n0123456789\r\n000\r\n\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITES)
async def test_a_request_is_rewritten(line: Line, name: str) -> None:
    sent, expected = REWRITES[name]
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    _, body = await app.ask(sent)
    assert body == b"hi"
    assert echo.requests == [expected]


AGAIN = b"Host: one.local\r\nConnection: keep-alive\r\nX-A: 1\r\n\r\n"


async def test_a_request_with_the_headers_of_the_one_before_is_rewritten_the_same(line: Line) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    for path in (b"/1", b"/2?x", b"/"):
        await app.ask(b"GET " + path + b" HTTP/1.1\r\n" + AGAIN)
    parts = [
        re.fullmatch(rb"GET (\S+) HTTP/1.1\r\n(.*)X-Request-Id: (\S+)\r\n\r\n", sent, re.S) for sent in echo.requests
    ]
    assert [part[1] for part in parts if part] == [b"/1", b"/2?x", b"/"]
    assert {part[2] for part in parts if part} == {b"Host: one.local\r\nX-A: 1\r\n" + FORWARDED % b"one.local"}
    assert len({part[3] for part in parts if part}) == 3


@pytest.mark.parametrize(
    ("status", "first"),
    [
        (400, b"GET /a b HTTP/1.1"),
        (400, b"GET /\xff HTTP/1.1"),
        (400, b"GET /#x HTTP/1.1"),
        (400, b"GET http://two.local/ HTTP/1.1"),
        (400, b"GET /\n HTTP/1.1"),
        (501, b"FOO / HTTP/1.1"),
        (505, b"GET / HTTP/2.0"),
    ],
)
async def test_the_headers_of_the_one_before_do_not_excuse_a_request_line(
    line: Line, status: int, first: bytes
) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    await app.ask(b"GET / HTTP/1.1\r\n" + AGAIN)
    app.send(first + b"\r\n" + AGAIN)
    assert (await app.read_all()).startswith(b"HTTP/1.1 %d " % status)
    assert len(echo.requests) == 1


async def test_http_1_0_after_the_same_headers_in_http_1_1_is_still_http_1_0(line: Line) -> None:
    await line.serve("one.local", Echo())
    app = await line.connect()
    await app.ask(b"GET / HTTP/1.1\r\nHost: one.local\r\n\r\n")
    app.send(b"GET / HTTP/1.0\r\nHost: one.local\r\n\r\n")
    assert b"Connection: close\r\n" in await app.read_all()


async def test_the_host_header_passes_unchanged_and_routes_by_its_name(line: Line) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    await app.ask(b"GET / HTTP/1.1\r\nhost:\tONE.Local.:8443\r\n\r\n")
    assert b"host:\tONE.Local.:8443\r\n" in echo.requests[0]
    assert b"X-Forwarded-Host: ONE.Local.:8443\r\nX-Forwarded-Port: 8443\r\n" in echo.requests[0]
    assert line.client_side.targets == [Target(8000, "one.local")]


async def test_an_address_is_a_host_too(line: Line) -> None:
    await line.serve("[::1]", Echo())
    app = await line.connect()
    _, body = await app.ask(b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n")
    assert body == b"hi"


async def test_the_address_is_appended_to_x_forwarded_for(line: Line) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    await app.ask(
        b"GET / HTTP/1.1\r\nHost: one.local\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\r\n"
    )
    assert echo.requests[0].count(b"X-Forwarded-For") == 1
    assert b"X-Forwarded-For: 10.0.0.1, 10.0.0.2, 192.0.2.7\r\n" in echo.requests[0]


@pytest.mark.parametrize("trusted", [False, True])
async def test_only_a_trusted_peer_says_in_other_headers_where_a_request_came_from(line: Line, trusted: bool) -> None:
    line.trusted = trusted
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    await app.ask(
        b"GET / HTTP/1.1\r\nHost: one.local\r\nForwarded: for=198.51.100.1\r\nx-real-ip: 198.51.100.1\r\n"
        b"X_Real_IP: 198.51.100.1\r\n\r\n"
    )
    assert (b"\r\nForwarded: for=198.51.100.1\r\n" in echo.requests[0]) is trusted
    assert (b"\r\nx-real-ip: 198.51.100.1\r\n" in echo.requests[0]) is trusted
    assert b"X_Real_IP" not in echo.requests[0]


async def test_a_trusted_peer_says_what_came_before_it(line: Line) -> None:
    line.trusted = True
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    await app.ask(b"GET / HTTP/1.1\r\nHost: one.local\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www\r\n\r\n")
    assert (
        b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www\r\nX-Forwarded-Port: 8000\r\n"
        in echo.requests[0]
    )


@pytest.mark.parametrize("sent", [b"", b"X-Request-Id: a b\r\n", b"X-Request-Id: %b\r\n" % (b"x" * 129), ID + ID])
async def test_a_request_id_that_is_not_sane_is_replaced(line: Line, sent: bytes) -> None:
    echo = Echo(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Request-Id: theirs\r\n\r\n")
    await line.serve("one.local", echo)
    app = await line.connect()
    seen = set()
    for _ in range(2):
        response, _ = await app.ask(b"GET / HTTP/1.1\r\nHost: one.local\r\n" + sent + b"\r\n")
        (given,) = re.findall(rb"X-Request-Id: ([0-9a-f]{16}-[0-9a-f]+)\r\n", response)
        assert re.findall(rb"X-Request-Id: (.*)\r\n", echo.requests[-1]) == [given]
        assert response.count(b"X-Request-Id") == 1
        seen.add(given)
    assert len(seen) == 2


@pytest.mark.parametrize("request_id", [b"x" * 128, b"Root=1-67891233-abcdef012345678912345678", b"a/b+c=:@~_."])
async def test_a_sane_request_id_is_kept(line: Line, request_id: bytes) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    response, _ = await app.ask(b"GET / HTTP/1.1\r\nHost: one.local\r\nX-Request-ID: " + request_id + b"\r\n\r\n")
    assert b"X-Request-Id: " + request_id + b"\r\n" in response
    assert b"X-Request-Id: " + request_id + b"\r\n" in echo.requests[0]


STREAM = (
    b"GET /1 HTTP/1.1\r\nHost: one.local\r\n" + ID + b"\r\n"
    b"POST /2 HTTP/1.1\r\nHost: two.local\r\nContent-Length: 11\r\n" + ID + b"\r\nhello\r\n\r\nGE"
    b"POST /3 HTTP/1.1\r\nHost: one.local\r\nTransfer-Encoding: chunked\r\n" + ID
    + b"\r\n4\r\nab\r\n\r\n1a;e\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nT: 1\r\n\r\n"
    b"GET /4 HTTP/1.1\r\nHost: one.local\r\n" + ID + b"\r\n"
)  # fmt: skip


async def test_a_stream_of_requests_reaches_its_upstreams(line: Line) -> None:
    one, two = Echo(), Echo()
    await line.serve("one.local", one)
    await line.serve("two.local", two)
    app = await line.connect()
    app.send(STREAM)
    for _ in range(4):
        assert (await app.read_response())[1] == b"hi"
    assert [request.split()[1] for request in one.requests] == [b"/1", b"/3", b"/4"]
    assert [request.split()[1] for request in two.requests] == [b"/2"]
    assert one.requests[1].endswith(b"\r\n\r\n4\r\nab\r\n\r\n1a;e\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n")
    assert two.requests[0].endswith(b"\r\n\r\nhello\r\n\r\nGE")


ENDS = {b" /1 ": b"\r\n\r\n", b" /2 ": b"\r\n\r\nGE", b" /3 ": b"\r\n0\r\n\r\n", b" /4 ": b"\r\n\r\n"}


class FakeTransport(asyncio.Transport):
    """Where an application would be: it takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class FakeEndpoint:
    """One session whose upstreams take *credits* bytes at a time and answer when they have a whole request."""

    draining = False

    def __init__(self, credits: list[int]) -> None:
        self.credits = itertools.cycle(credits)
        self.streams: list[tuple[Stream, StreamHandler, bytearray]] = []
        self.waiting = False

    def open_stream(self, target: Target, source: str, handler: StreamHandler) -> tuple[Endpoint, Stream]:
        stream = Stream(len(self.streams), target, source, SendWindow(0), ReceiveWindow(0))
        self.streams.append((stream, handler, bytearray()))
        return cast(Endpoint, self), stream

    def may_send(self, stream: Stream) -> int:
        credit = next(self.credits)
        self.waiting = not credit
        return credit

    def send_data(self, stream: Stream, data: bytes) -> None:
        self.streams[stream.stream_id][2].extend(data)

    def send_fin(self, stream: Stream) -> None:
        stream.closed = True

    def reset_stream(self, stream: Stream, code: ErrorCode, reason: str = "") -> None:
        stream.closed = True

    def consume(self, stream: Stream, size: int) -> None: ...

    def run(self, answered: list[bytes]) -> None:
        """Give credit to who waits, and answer what is complete."""
        for _stream, handler, received in self.streams:
            handler.resume_sending()
            end = next((end for path, end in ENDS.items() if path in received), None)
            if end is not None and received.endswith(end):
                answered.append(bytes(received))
                received.clear()
                handler.data_received(memoryview(b"HTTP/1.1 204 No Content\r\n\r\n"))


def pass_stream(cuts: list[int], credits: list[int]) -> list[bytes]:
    """Return the requests that upstreams get of STREAM where it arrives in pieces, with so much credit at a time."""

    async def run() -> list[bytes]:
        endpoint = FakeEndpoint([*credits, 65536])
        transport = FakeTransport()
        answered: list[bytes] = []
        connection = HttpConnection(
            endpoint.open_stream, peer="192.0.2.7:1", tunnel="a/b", limits=HttpLimits(), on_end=lambda: None
        )
        connection.connection_made(transport)
        places = [0, *sorted(cuts), len(STREAM)]
        for start, end in zip(places, places[1:], strict=False):
            while transport.paused:
                endpoint.run(answered)
            piece = STREAM[start:end]
            if piece:
                connection.get_buffer(-1)[: len(piece)] = piece
                connection.buffer_updated(len(piece))
        for _ in range(200):
            endpoint.run(answered)
        assert transport.written.count(b"HTTP/1.1 204 No Content\r\n") == 4
        connection.connection_lost(None)
        return answered

    return asyncio.run(run())


@given(
    cuts=st.lists(st.integers(0, len(STREAM)), max_size=40),
    credits=st.lists(st.integers(0, 100), max_size=8),
)
@settings(deadline=None)
def test_upstreams_get_the_same_bytes_however_they_arrive(cuts: list[int], credits: list[int]) -> None:
    expected = pass_stream([], [])
    assert [request.split()[1] for request in expected] == [b"/1", b"/2", b"/3", b"/4"]
    assert pass_stream(cuts, credits) == expected


CHUNKED = b"4\r\nab\r\n\r\n1a;e=1\r\nabcdefghijklmnopqrstuvwxyz\r\n00\r\nT: 1\r\nU: 2\r\n\r\n"


@given(cuts=st.lists(st.integers(0, len(CHUNKED)), max_size=20), framed=st.booleans(), trailers=st.booleans())
@settings(deadline=None)
def test_a_chunked_body_ends_where_it_ends_however_it_is_cut(cuts: list[int], framed: bool, trailers: bool) -> None:
    body = ChunkedBody(framed=framed, trailers=trailers)
    out: list[bytes] = []
    places = [0, *sorted(cuts), len(CHUNKED)]
    for start, end in zip(places, places[1:], strict=False):
        if start < end:
            assert not body.done
            assert body.take(CHUNKED[start:end], 0, out) == end - start
    assert body.done
    expected = CHUNKED
    if not framed:
        expected = b"ab\r\nabcdefghijklmnopqrstuvwxyz"
    elif not trailers:
        expected = CHUNKED.replace(b"T: 1\r\nU: 2\r\n", b"")
    assert b"".join(out) == expected


def test_a_chunked_body_leaves_what_follows_it() -> None:
    body = ChunkedBody()
    out: list[bytes] = []
    assert body.take(b"xx0\r\n\r\nGET", 2, out) == 7
    assert body.done
    assert b"".join(out) == b"0\r\n\r\n"
