"""Connections and streams that serve more than one request."""

from __future__ import annotations

import asyncio

import pytest

from tunnels.protocol import ErrorCode

from .line import Echo, Line, read_request, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def get(host: bytes = b"one.local", method: bytes = b"GET", extra: bytes = b"") -> bytes:
    return method + b" / HTTP/1.1\r\nHost: " + host + b"\r\n" + extra + b"\r\n"


async def test_one_upstream_connection_serves_all_requests_of_a_host(line: Line) -> None:
    echo = Echo()
    upstream = await line.serve("one.local", echo)
    app = await line.connect()
    for _ in range(20):
        assert (await app.ask(get()))[1] == b"hi"
    assert len(echo.requests) == 20
    assert upstream.connections == 1
    assert line.gateway.streams == 1


async def test_each_request_goes_to_its_own_host(line: Line) -> None:
    one, two = Echo(), Echo(OK.replace(b"hi", b"yo"))
    await line.serve("one.local", one)
    await line.serve("two.local", two)
    app = await line.connect()
    answers = [(await app.ask(get(host)))[1] for host in (b"one.local", b"two.local", b"ONE.local:80", b"two.local")]
    assert answers == [b"hi", b"yo", b"hi", b"yo"]
    assert len(one.requests) == len(two.requests) == 2
    await until(lambda: line.gateway.streams == 1, "the stream of the other host to end")


@pytest.mark.parametrize("ends", ["client", "gateway"])
async def test_a_kept_stream_does_not_hold_up_a_session_that_ends(line: Line, ends: str) -> None:
    await line.serve("one.local", Echo())
    app = await line.connect()
    assert (await app.ask(get()))[1] == b"hi"
    assert line.gateway.streams == 1
    getattr(line, ends).announce_end(ErrorCode.SHUTDOWN, 60.0)
    await until(lambda: line.gateway.streams == 0, "the kept stream to end")


async def test_pipelined_requests_are_answered_in_order(line: Line) -> None:
    bodies = iter([b"1a", b"2b", b"3c"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(OK.replace(b"hi", next(bodies)))

    upstream = await line.serve("one.local", answer)
    app = await line.connect()
    app.send(get() + get(method=b"POST", extra=b"Content-Length: 3\r\n") + b"abc" + get())
    assert [(await app.read_response())[1] for _ in range(3)] == [b"1a", b"2b", b"3c"]
    assert upstream.connections == 1


async def test_a_thousand_pipelined_requests_that_fail_are_all_answered(line: Line) -> None:
    line.client.close(ErrorCode.SHUTDOWN, "gone")
    await until(lambda: not line.gateway.open, "the session to end")
    app = await line.connect()
    app.send(get() * 1000)
    for _ in range(1000):
        assert (await app.read_response())[0].startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"excess",
    ],
    ids=["Connection: close", "HTTP/1.0", "bytes after the response"],
)
async def test_an_upstream_that_is_not_reusable_gets_one_request(line: Line, response: bytes) -> None:
    upstream = await line.serve("one.local", Echo(response))
    app = await line.connect()
    for _ in range(3):
        head, body = await app.ask(get())
        assert body == b"hi"
        assert b"Connection" not in head
    assert upstream.connections == 3
    await until(lambda: line.gateway.streams == 0, "the streams to end")


async def test_http_1_0_closes_unless_asked_to_stay(line: Line) -> None:
    await line.serve("one.local", Echo())
    app = await line.connect()
    head, _ = await app.ask(get(extra=b"Connection: keep-alive\r\n").replace(b"1.1", b"1.0"))
    assert b"Connection: keep-alive\r\n" in head
    app.send(get().replace(b"1.1", b"1.0"))
    assert b"Connection: close\r\n" in await app.read_all()


async def test_an_upstream_that_closed_meanwhile_is_dialled_again(line: Line) -> None:
    upstream = await line.serve("one.local", Echo(close=True))
    app = await line.connect()
    for _ in range(3):
        assert (await app.ask(get()))[1] == b"hi"
        await until(lambda: line.gateway.streams == 0, "the upstream's end to arrive")
    assert upstream.connections == 3


class ClosesOnSecond:
    """Answers the first request of a connection and closes when it has read the second: the keep-alive race."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            self.requests.append(request)
            if len(self.requests) == 2:
                return
            writer.write(OK)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
async def test_an_idempotent_request_that_lost_the_race_is_sent_once_more(line: Line, method: bytes) -> None:
    script = ClosesOnSecond()
    upstream = await line.serve("one.local", script)
    app = await line.connect()
    await app.ask(get())
    app.send(get(method=method))
    assert (await app.read_head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert upstream.connections == 2
    assert len(script.requests) == 3
    assert script.requests[1] == script.requests[2]


@pytest.mark.parametrize("request_bytes", [get(method=b"POST"), get(extra=b"Content-Length: 1\r\n") + b"x"])
async def test_a_request_that_may_not_be_repeated_is_a_502(line: Line, request_bytes: bytes) -> None:
    script = ClosesOnSecond()
    await line.serve("one.local", script)
    app = await line.connect()
    await app.ask(get())
    head, _ = await app.ask(request_bytes)
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"X-Moorline-Error: UPSTREAM_CLOSED\r\n" in head
    assert len(script.requests) == 2


async def test_a_request_is_repeated_once_and_only_after_a_kept_stream(line: Line) -> None:
    requests = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not requests:
            requests.append(await read_request(reader))
            writer.write(OK)
        requests.append(await read_request(reader))

    upstream = await line.serve("one.local", answer)
    app = await line.connect()
    assert (await app.ask(get()))[1] == b"hi"
    head, _ = await app.ask(get())
    assert head.startswith(b"HTTP/1.1 502 ")
    assert len(requests) == 3
    head, _ = await app.ask(get())
    assert head.startswith(b"HTTP/1.1 502 ")
    assert len(requests) == 4
    assert upstream.connections == 3


async def test_an_upstream_that_speaks_unasked_is_not_used_again(line: Line) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await release.wait()
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    release = asyncio.Event()
    upstream = await line.serve("one.local", answer)
    app = await line.connect()
    await app.ask(get())
    release.set()
    await until(lambda: line.gateway.streams == 0, "the stream to be given up")
    assert (await app.ask(get()))[0].startswith(b"HTTP/1.1 200 ")
    assert upstream.connections == 2


async def test_the_stream_ends_with_the_application(line: Line) -> None:
    upstream = await line.serve("one.local", Echo())
    app = await line.connect()
    await app.ask(get())
    app.writer.close()
    await until(lambda: line.ended == 1, "on_end")
    await until(lambda: line.gateway.streams == line.client.streams == 0, "the stream to end")
    await until(lambda: not upstream.tasks, "the upstream's connection to end")


async def test_a_draining_session_gets_no_further_request(line: Line) -> None:
    echo = Echo()
    await line.serve("one.local", echo)
    app = await line.connect()
    await app.ask(get())
    line.client.announce_end(ErrorCode.SHUTDOWN, 10.0)
    await until(lambda: line.gateway.draining, "GOAWAY")
    head, _ = await app.ask(get())
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"X-Moorline-Error: SHUTDOWN\r\n" in head
    assert len(echo.requests) == 1


async def test_drain_closes_an_idle_connection(line: Line) -> None:
    await line.serve("one.local", Echo())
    app = await line.connect()
    await app.ask(get())
    next(iter(line.connections)).drain()
    assert await app.read_all() == b""


async def test_drain_lets_the_request_under_way_finish(line: Line) -> None:
    release = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await release.wait()
        writer.write(OK)

    upstream = await line.serve("one.local", answer)
    app = await line.connect()
    app.send(get())
    await until(lambda: upstream.tasks, "the request")
    next(iter(line.connections)).drain()
    release.set()
    response = await app.read_all()
    assert b"\r\nConnection: close\r\n" in response
    assert response.endswith(b"\r\n\r\nhi")


async def test_abort_resets_a_response_under_way(line: Line) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhi")
        await reader.read()

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(get())
    await app.read_head()
    next(iter(line.connections)).abort()
    with pytest.raises(ConnectionResetError):
        await app.read_all()
    await until(lambda: line.gateway.streams == 0, "the stream to end")
