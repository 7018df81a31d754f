"""The gateway's own pages: they say which hop failed."""

# ruff: noqa: E501 - a line of the table is one rejection

from __future__ import annotations

import json

import pytest

from tunnels.protocol import ErrorCode, Stream

from .line import Echo, Line, until

GET = b"GET / HTTP/1.1\r\nHost: one.local\r\nX-Request-Id: abc\r\n%b\r\n"

REJECTED = {
    ErrorCode.UNKNOWN_UPSTREAM: (502, "client to upstream", "The client of acmeco/prod has no upstream for Host one.local."),
    ErrorCode.UPSTREAM_REFUSED: (502, "client to upstream", "refused by the upstream of one.local: as the test wants it."),
    ErrorCode.UPSTREAM_UNREACHABLE: (502, "client to upstream", "can't reach the upstream of one.local"),
    ErrorCode.UPSTREAM_TIMEOUT: (504, "client to upstream", "no answer from the upstream of one.local in time"),
    ErrorCode.UPSTREAM_NAME: (502, "client to upstream", "can't resolve the name of the upstream of one.local"),
    ErrorCode.UPSTREAM_TLS: (502, "client to upstream", "can't agree on TLS with the upstream of one.local"),
    ErrorCode.SHUTDOWN: (503, "gateway to client", "is stopping or reconnecting"),
    ErrorCode.LIMIT: (503, "gateway to client", "holds as many streams as it may"),
    ErrorCode.DISABLED: (503, "gateway to client", "The tunnel acmeco/prod is not in service"),
    ErrorCode.INTERNAL: (502, "gateway to client", "The stream to the client of acmeco/prod failed"),
}  # fmt: skip


@pytest.mark.parametrize("code", REJECTED, ids=lambda code: code.name)
async def test_a_rejection_says_why(line: Line, code: ErrorCode) -> None:
    status, hop, message = REJECTED[code]
    line.hosts["one.local"] = code
    app = await line.connect()
    head, body = await app.ask(GET % b"Accept: application/json\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert f"X-Moorline-Error: {code.name}\r\n".encode() in head
    assert (b"Retry-After: " in head) == (status == 503)
    assert b"Content-Type: application/json; charset=utf-8\r\n" in head
    assert b"Connection: keep-alive\r\n" in head
    assert b"X-Request-Id: abc\r\n" in head
    document = json.loads(body)
    assert message in document.pop("message")
    assert document == {"status": status, "code": code.name, "hop": hop, "request_id": "abc"}
    repeats = 2 if code in (ErrorCode.SHUTDOWN, ErrorCode.LIMIT) else 1
    assert len(line.client_side.targets) == repeats


async def test_a_request_that_a_stopping_client_did_not_begin_goes_to_the_next(line: Line) -> None:
    await line.serve("one.local", Echo())
    reached = line.hosts["one.local"]
    line.hosts["one.local"] = ErrorCode.SHUTDOWN
    reject = line.client.reject_stream

    def reject_and_come_back(stream: Stream, code: ErrorCode, reason: str) -> None:
        line.hosts["one.local"] = reached
        reject(stream, code, reason)

    line.client.reject_stream = reject_and_come_back  # type: ignore[method-assign]
    app = await line.connect()
    assert (await app.ask(GET % b""))[1] == b"hi"
    assert len(line.client_side.targets) == 2


async def test_without_a_session_the_client_is_not_connected(line: Line) -> None:
    line.client.close(ErrorCode.SHUTDOWN, "gone")
    await until(lambda: not line.gateway.open, "the session to end")
    app = await line.connect()
    head, body = await app.ask(GET % b"")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"X-Moorline-Error: NO_SESSION\r\n" in head
    assert b"Retry-After: 5\r\n" in head
    assert b"The customer's client is not connected" in body


async def test_a_session_lost_before_the_response_is_a_502(line: Line) -> None:
    async def answer(reader, writer) -> None:  # type: ignore[no-untyped-def]
        await reader.read()

    upstream = await line.serve("one.local", answer)
    app = await line.connect()
    app.send(GET % b"")
    await until(lambda: upstream.tasks, "the request")
    line.client.close(ErrorCode.SHUTDOWN, "gone")
    head, body = await app.read_response()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"X-Moorline-Error: LOST\r\n" in head
    assert b"was lost" in body


async def test_a_session_lost_in_a_response_resets_the_application(line: Line) -> None:
    async def answer(reader, writer) -> None:  # type: ignore[no-untyped-def]
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhi")
        await reader.read()

    await line.serve("one.local", answer)
    app = await line.connect()
    app.send(GET % b"")
    await app.read_head()
    line.client.close(ErrorCode.SHUTDOWN, "gone")
    with pytest.raises(ConnectionResetError):
        await app.read_all()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", b"text/html"),
        (b"application/problem+json", b"application/json"),
        (b"*/*", b"text/plain"),
        (b"", b"text/plain"),
    ],
)
async def test_a_page_has_the_form_that_is_accepted(line: Line, accept: bytes, kind: bytes) -> None:
    app = await line.connect()
    head, body = await app.ask(GET % (b"Accept: " + accept + b"\r\n"))
    assert b"Content-Type: " + kind + b"; charset=utf-8\r\n" in head
    assert b"UNKNOWN_UPSTREAM" in body


async def test_a_page_escapes_what_others_say(line: Line) -> None:
    line.hosts["one.local"] = ErrorCode.UPSTREAM_REFUSED
    reject = line.client.reject_stream
    line.client.reject_stream = lambda stream, code, _: reject(stream, code, "<script>")  # type: ignore[method-assign]
    app = await line.connect()
    _, body = await app.ask(GET % b"Accept: text/html\r\n")
    assert b"&lt;script&gt;" in body
    assert b"<script>" not in body


async def test_a_page_for_head_has_no_body(line: Line) -> None:
    app = await line.connect()
    app.send(GET.replace(b"GET", b"HEAD") % b"Connection: close\r\n")
    response = await app.read_all()
    assert response.startswith(b"HTTP/1.1 502 ")
    assert b"Content-Length: " in response
    assert response.endswith(b"\r\n\r\n")


async def test_a_refused_upload_gets_its_page_though_it_goes_on_sending(line: Line) -> None:
    app = await line.connect()
    app.send(b"POST / HTTP/1.1\r\nHost: one.local\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 3_000_000)
    response = await app.read_all()
    assert response.startswith(b"HTTP/1.1 502 ")
    assert b"Connection: close\r\n" in response
