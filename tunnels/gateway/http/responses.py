"""Responses of upstreams: read strictly, framed by the request they answer, and rewritten for the application."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .framing import Body, ChunkedBody, EndlessBody, LengthBody
from .grammar import FIELD_CONTENT, FIELD_LINES, BadMessage, HeaderCollector, join_headers, split_list
from .requests import Request

# RFC 9112 section 4. The reason phrase, and the space before it, may be missing.
_HEAD = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})( " + FIELD_CONTENT + rb"*+)?\r\n" + FIELD_LINES + rb"\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")

# For one connection only (RFC 9110 section 7.6.1), or ours to say.
_DROPPED: Final = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authentication-info", b"te",
    b"transfer-encoding", b"upgrade", b"x-request-id", b"x-moorline-error",
))  # fmt: skip
_OPTIONS: Final = frozenset((b"close", b"keep-alive"))
_NOTED: Final = _DROPPED | {b"content-length"}
_ONCE: Final = frozenset((b"content-length", b"transfer-encoding"))
_MAX_HEADERS: Final = 200


@dataclass(slots=True)
class Response:
    """One response, checked; *body* is None where there is none, and *lines* are its headers for the application."""

    status: int
    reason: bytes  # with a space in front
    body: Body | None
    reusable: bool  # the upstream takes another request after this one
    until_end: bool  # for the application the body ends with the connection
    lines: bytes

    @property
    def interim(self) -> bool:
        """Whether the real response is still to come (RFC 9110 section 15.2)."""
        return self.status < 200 and self.status != 101

    def render(self, request: Request, *, close: bool) -> bytes:
        """Return the head for the application; with *close* the connection ends after this response."""
        if self.interim:
            return b"HTTP/1.1 %d%b\r\n%b\r\n" % (self.status, self.reason, self.lines)
        connection = b""
        if self.status != 101:
            if close:
                connection = b"Connection: close\r\n"
            elif request.http_1_0:
                connection = b"Connection: keep-alive\r\n"
        return b"HTTP/1.1 %d%b\r\n%b%bX-Request-Id: %b\r\n\r\n" % (
            self.status, self.reason, self.lines, connection, request.request_id,
        )  # fmt: skip


def read_response(head: bytes, request: Request) -> Response:
    """Return the response to *request* that *head*, with its empty line, begins. Raises BadMessage."""
    shape = _HEAD.fullmatch(head)
    if shape is None:
        raise _bad("its head is malformed")
    version, code, reason = shape.groups()
    status = int(code)
    http_1_0 = version == b"0"
    headers = _read_headers(head)
    found = _note(headers)
    options = split_list(found[b"connection"]) if b"connection" in found else []
    if status == 101 and not request.upgrade:
        raise _bad("it switches protocols, which nobody asked for")
    body = _find_body(status, found, request, http_1_0)
    coded = b"transfer-encoding" in found
    chunked = coded and not request.http_1_0 and status >= 200 and status != 204

    if _DROPPED.isdisjoint(found) and (status >= 200 and status != 204):
        lines = head[shape.end(2 if reason is None else 3) + 2 : -2]
    else:
        dropped = _DROPPED
        if not _OPTIONS.issuperset(options):
            dropped |= frozenset(options) - _ONCE  # RFC 9110 section 7.6.1 forbids to list these; it is not obeyed
        if status < 200 or status == 204:
            dropped |= _ONCE  # RFC 9110 section 8.6, RFC 9112 section 6.1: neither may be there
        lines = join_headers(headers, dropped)
        if chunked:
            lines += b"Transfer-Encoding: chunked\r\n"
        if b"upgrade" in found and status in (101, 426):
            lines += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % found[b"upgrade"]
    return Response(
        status=status,
        reason=reason or b" ",
        body=body,
        # RFC 9112 section 9.3
        reusable=b"close" not in options
        and (not http_1_0 or b"keep-alive" in options)
        and not (body is not None and body.endless),
        until_end=body is not None and (body.endless or (coded and not chunked)),
        lines=lines,
    )


def _read_headers(head: bytes) -> list[tuple[bytes, bytes]]:
    collector = HeaderCollector()
    try:
        HttpResponseParser(collector).feed_data(head)
    except HttpParserUpgrade:
        pass  # how httptools says that the head is whole and switches protocols
    except HttpParserError as error:
        raise _bad(str(error)) from None
    if len(collector.headers) > _MAX_HEADERS:
        raise _bad(f"it has more than {_MAX_HEADERS} headers")
    return collector.headers


def _note(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        key = name.lower()
        if key in _NOTED:
            if key not in found:
                found[key] = value.strip(b" \t")
            elif key in _ONCE:
                raise _bad(f"it has more than one {key.decode('ascii')} header")
            else:
                found[key] += b", " + value.strip(b" \t")
    return found


def _find_body(status: int, found: dict[bytes, bytes], request: Request, http_1_0: bool) -> Body | None:
    """Return the body of a response, in the order of RFC 9112 section 6.3."""
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length")
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise _bad("its Content-Length is not one decimal number")
    if coding is not None and (length is not None or http_1_0 or coding.lower() != b"chunked"):
        raise _bad("its Transfer-Encoding must be chunked, alone, and in HTTP/1.1")
    if request.method == b"HEAD" or status < 200 or status in (204, 304):
        return None
    if coding is not None:
        return ChunkedBody(framed=not request.http_1_0, trailers=True)
    if length is not None:
        return LengthBody(int(length)) if int(length) else None
    return EndlessBody()


def _bad(reason: str) -> BadMessage:
    return BadMessage(502, "BAD_RESPONSE", f"the upstream sent a response that can't be passed on: {reason}")
