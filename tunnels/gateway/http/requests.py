"""Requests of applications: read strictly, and rewritten for the upstream (RFC 9110, RFC 9112)."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from ...protocol import Target
from .framing import Body, ChunkedBody, LengthBody
from .grammar import FIELD_LINES, TOKEN, BadMessage, HeaderCollector, join_headers, split_list
from .limits import HttpLimits

# RFC 9112 section 3. A target is visible ASCII; a fragment ("#") never goes into a request.
_HEAD = re.compile(rb"(" + TOKEN + rb"++) ([!\"$-~]++) HTTP/(\d\.\d)\r\n" + FIELD_LINES + rb"\r\n")
_LINE = re.compile(TOKEN + rb"++ [!\"$-~]++ HTTP/\d\.\d\r\n")
_SIMPLE_LINE = re.compile(rb"(" + TOKEN + rb"++) /[!\"$-~]*+ HTTP/1\.1")
# RFC 3986 section 3.2.2 as host names and addresses use it: no user, no escapes, no sub-delimiters; and no empty label
# (RFC 1034 section 3.1), save that of the root at the end.
_HOST = re.compile(
    rb"((?=[^:]{1,255}(?::|\Z))[A-Za-z0-9_~\-]++(?:\.[A-Za-z0-9_~\-]++)*+\.?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5})?)?"
)
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?]*)(.*)")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=@\-]{1,128}")

# RFC 9110 section 7.6.1: for one connection only. What we set ourselves is dropped as well, and set again.
_HOP_BY_HOP: Final = (
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
)  # fmt: skip
_SET_BY_US: Final = (
    b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-request-id",
)  # fmt: skip
# Where the request came from, in other words than ours: believed from a trusted peer only.
_ORIGIN: Final = (b"forwarded", b"x-real-ip")
_FRAMING: Final = (b"host", b"content-length", b"expect")
# Gateways to WSGI and CGI read "X_Forwarded_For" as if it were "X-Forwarded-For": such a twin never gets through.
_KNOWN: Final = (*_HOP_BY_HOP, *_SET_BY_US, *_ORIGIN, *_FRAMING)
_TWINS: Final = frozenset(name.replace(b"-", b"_") for name in _KNOWN if b"-" in name)
_DROPPED_FROM_TRUSTED: Final = frozenset((*_HOP_BY_HOP, *_SET_BY_US)) | _TWINS
_DROPPED: Final = _DROPPED_FROM_TRUSTED | frozenset(_ORIGIN)
_NOTED: Final = _DROPPED | frozenset((*_FRAMING, b"accept"))
# RFC 9110 section 7.6.1 forbids to list these; obeying would change where a request goes or how it is framed.
_NEVER_LISTED: Final = frozenset((b"host", b"content-length", b"transfer-encoding"))
_OPTIONS: Final = frozenset((b"", b"close", b"keep-alive"))

_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110 section 9.2.2

_id_prefix = secrets.token_hex(8).encode()
_id_count = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Route:
    """Where the requests with one *host* (the Host header, as it was sent) go, and what the upstream is told of it.

    Raises ValueError for a target without a host: that would be a TCP port of the tunnel, which HTTP must never open.
    """

    host: bytes
    target: Target
    forwarded: bytes  # header lines

    def __post_init__(self) -> None:
        if not self.target.host:
            raise ValueError("an HTTP request goes to a host name, never to a TCP port")


@dataclass(slots=True)
class Request:
    """One request, checked; *head* is what goes to the upstream, *body* is None where there is none."""

    method: bytes
    route: Route
    accept: bytes
    request_id: bytes
    keep_alive: bool  # the application can use the connection for another request
    http_1_0: bool
    upgrade: bool
    body: Body | None
    head: bytes

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again where the first copy may have arrived."""
        return self.body is None and self.method in _IDEMPOTENT


@dataclass(frozen=True, slots=True)
class _Latest:
    """A request without a body whose headers have been checked: *block*, and *lines* for the upstream."""

    block: bytes
    lines: bytes
    identified: bool  # it brought its X-Request-Id along
    request: Request

    def repeat(self, line: bytes) -> Request:
        """Return the request with the same method and headers whose request line is *line*."""
        request = self.request
        request_id = request.request_id if self.identified else _make_id()
        return Request(
            request.method,
            request.route,
            request.accept,
            request_id,
            request.keep_alive,
            False,
            request.upgrade,
            None,
            b"%b\r\n%bX-Request-Id: %b\r\n\r\n" % (line, self.lines, request_id),
        )


class RequestReader:
    """Reads the request heads of one connection.

    Arguments: the *limits*; the *address* of the application without its port; whether it is *trusted*, so that what
    it says about the way before it is believed; *port*, reported as X-Forwarded-Port where Host names none.
    """

    def __init__(self, limits: HttpLimits, *, address: str, trusted: bool, port: int) -> None:
        self._limits = limits
        self._address = address.encode("ascii", "replace")
        self._trusted = trusted
        self._port = port
        # The requests of one connection mostly differ in nothing but their target.
        self._route: Route | None = None
        self._latest: _Latest | None = None

    def read(self, head: bytes) -> Request:
        """Return the request that *head*, with its empty line, begins. Raises BadMessage."""
        latest = self._latest
        if latest is not None:
            line, _, block = head.partition(b"\r\n")
            if block == latest.block:
                match = _SIMPLE_LINE.fullmatch(line)
                if match is not None and match[1] == latest.request.method:
                    return latest.repeat(line)
        return self._read_anew(head)

    def _read_anew(self, head: bytes) -> Request:
        shape = _HEAD.fullmatch(head)
        if shape is None:
            raise _explain(head)
        method, target, version = shape.groups()
        if version not in (b"1.1", b"1.0"):
            raise BadMessage(505, "HTTP_VERSION", "this port speaks HTTP/1.1 and HTTP/1.0")
        if method == b"CONNECT":
            raise BadMessage(501, "METHOD", "CONNECT is not served here; use the TCP ports of the tunnel")
        headers = _read_headers(head, self._limits.headers)
        found = _note(headers)
        route = self._find_route(found.get(b"host", b""))
        if not target.startswith(b"/"):
            target = _origin_form(method, target, route.host)
        http_1_0 = version == b"1.0"
        options = split_list(found[b"connection"]) if b"connection" in found else []
        body = _find_body(found, http_1_0)
        upgrade = b"upgrade" in found and b"upgrade" in options and _may_upgrade(found, body, http_1_0)
        request_id = found.get(b"x-request-id", b"")
        identified = _REQUEST_ID.fullmatch(request_id) is not None
        if not identified:
            request_id = _make_id()
        block = head[shape.end(3) + 2 :]
        dropped = _DROPPED_FROM_TRUSTED if self._trusted else _DROPPED
        lines = _pass_headers(block, headers, found, options, upgrade=upgrade, dropped=dropped)
        lines += self._forwarded(found, route)
        request = Request(
            method=method,
            route=route,
            accept=found.get(b"accept", b""),
            request_id=request_id,
            # RFC 9112 section 9.3
            keep_alive=b"close" not in options and (not http_1_0 or b"keep-alive" in options),
            http_1_0=http_1_0,
            upgrade=upgrade,
            body=body,
            head=b"%b %b HTTP/1.1\r\n%bX-Request-Id: %b\r\n\r\n" % (method, target, lines, request_id),
        )
        if body is None and not http_1_0:
            self._latest = _Latest(block, lines, identified, request)
        return request

    def _find_route(self, host: bytes) -> Route:
        route = self._route
        if route is None or route.host != host:
            match = _HOST.fullmatch(host)
            if match is None:
                raise BadMessage(400, "BAD_HOST", "a request needs exactly one Host header, and it must be a host name")
            name = match[1].decode("ascii").lower().removesuffix(".")
            lines = b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n"
            forwarded = lines % (host, match[2] or b"%d" % self._port)
            route = self._route = Route(host, Target(self._port, name), forwarded)
        return route

    def _forwarded(self, found: dict[bytes, bytes], route: Route) -> bytes:
        """Return the X-Forwarded-* lines: the address is appended, the others are ours unless the peer is trusted."""
        before = found.get(b"x-forwarded-for")
        line = b"X-Forwarded-For: %b\r\n" % (b"%b, %b" % (before, self._address) if before else self._address)
        if not self._trusted:
            return line + route.forwarded
        ours = dict(_split_line(text) for text in route.forwarded.splitlines())
        return line + b"".join(b"%b: %b\r\n" % (name, found.get(name.lower()) or ours[name]) for name in ours)


def _read_headers(head: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    collector = HeaderCollector()
    try:
        HttpRequestParser(collector).feed_data(head)
    except HttpParserUpgrade:
        pass  # how httptools says that the head is whole and asks for an upgrade
    except HttpParserInvalidMethodError:
        raise BadMessage(501, "METHOD", "the method is unknown") from None
    except HttpParserError as error:
        raise BadMessage(400, "BAD_REQUEST", f"the request is malformed: {error}") from None
    if len(collector.headers) > limit:
        raise BadMessage(431, "TOO_MANY_HEADERS", f"the request has more than {limit} headers")
    return collector.headers


def _pass_headers(
    block: bytes,
    headers: list[tuple[bytes, bytes]],
    found: dict[bytes, bytes],
    options: list[bytes],
    *,
    upgrade: bool,
    dropped: frozenset[bytes],
) -> bytes:
    """Return the lines of the application's headers for the upstream; as they are in *block* where all may pass."""
    if dropped.isdisjoint(found):
        return block[:-2]
    if not _OPTIONS.issuperset(options):
        dropped |= _listed(options)
    lines = join_headers(headers, dropped)
    if b"transfer-encoding" in found:
        lines += b"Transfer-Encoding: chunked\r\n"
    if upgrade:
        lines += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % found[b"upgrade"]
    elif b"te" in found and b"trailers" in split_list(found[b"te"]):
        lines += b"Connection: TE\r\nTE: trailers\r\n"
    return lines


def _make_id() -> bytes:
    return b"%b-%x" % (_id_prefix, next(_id_count))


def _note(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers that matter here, by lower-case name; refuse repeats that make a request ambiguous."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        key = name.lower()
        if key in _NOTED:
            if key not in found:
                found[key] = value.strip(b" \t")
            elif key in _NEVER_LISTED:
                raise BadMessage(400, "BAD_REQUEST", f"the request has more than one {key.decode('ascii')} header")
            else:
                found[key] += b", " + value.strip(b" \t")
    return found


def _origin_form(method: bytes, target: bytes, host: bytes) -> bytes:
    """Return the target for the upstream where it is not a path already (RFC 9112 section 3.2)."""
    if target == b"*" and method == b"OPTIONS":
        return target
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise BadMessage(400, "BAD_TARGET", "the request target is neither a path nor an http:// URL")
    # Section 3.2.2 lets the authority win over Host; where they differ somebody is being misled, so it is refused.
    if match[1].lower() != host.lower():
        raise BadMessage(400, "BAD_TARGET", "the request target names another host than the Host header")
    path = match[2]
    if path.startswith(b"/"):
        return path
    if not path and method == b"OPTIONS":
        return b"*"
    return b"/" + path


def _find_body(found: dict[bytes, bytes], http_1_0: bool) -> Body | None:
    """Return the body of a request by its headers (RFC 9112 section 6.3)."""
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length")
    if coding is not None:
        # Section 6.1: with Content-Length too, in HTTP/1.0, or with another coding it it is an error.
        if length is not None or http_1_0 or coding.lower() != b"chunked":
            raise BadMessage(400, "BAD_FRAMING", "Transfer-Encoding must be chunked, alone, and in HTTP/1.1")
        return ChunkedBody(trailers=False)  # an upstream may merge trailers with the headers we have checked
    if length is None:
        return None
    if _LENGTH.fullmatch(length) is None:
        raise BadMessage(400, "BAD_FRAMING", "Content-Length must be one decimal number")
    return LengthBody(int(length)) if int(length) else None


def _may_upgrade(found: dict[bytes, bytes], body: Body | None, http_1_0: bool) -> bool:
    """Return whether to pass an Upgrade header on."""
    protocols = {protocol.partition(b"/")[0] for protocol in split_list(found[b"upgrade"])}
    # h2c would carry requests for any Host past this parser; in HTTP/1.0 RFC 9110 section 7.8 says to ignore Upgrade.
    if http_1_0 or not protocols.isdisjoint((b"h2c", b"h2", b"tls", b"http")):
        return False
    if body is not None:
        raise BadMessage(400, "BAD_REQUEST", "a request that asks for an upgrade must not have a body")
    return True


def _listed(options: Sequence[bytes]) -> set[bytes]:
    """Return the headers that Connection names, to be removed (RFC 9110 section 7.6.1)."""
    listed = {option for option in options if option not in _OPTIONS}
    if not _NEVER_LISTED.isdisjoint(listed):
        raise BadMessage(400, "BAD_REQUEST", "Connection names a header that is not for one connection only")
    return listed


def _split_line(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value


def _explain(head: bytes) -> BadMessage:
    """Return what is wrong with a head that has not the shape of one."""
    line, end, _ = head.partition(b"\r\n")
    if _LINE.fullmatch(line + end) is None:
        return BadMessage(400, "BAD_REQUEST", "the request line is malformed")
    if b"HTTP/1." not in line:
        return BadMessage(505, "HTTP_VERSION", "this port speaks HTTP/1.1 and HTTP/1.0")
    return BadMessage(400, "BAD_REQUEST", "a header line is malformed")
