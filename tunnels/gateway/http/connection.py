"""The application's side of HTTP: one connection, its requests one after another, each to the upstream of its Host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from ...protocol import ErrorCode, StreamRefused
from .application import ApplicationConnection
from .framing import Body
from .grammar import HEAD_END, BadMessage, has_misplaced_bytes
from .limits import HttpLimits
from .pages import APPLICATION, UPSTREAM, Failure, no_session, render_failure, stream_failure
from .requests import Request, RequestReader
from .responses import Response
from .upstream import OpenStream, UpstreamStream

logger = logging.getLogger(__name__)

HTTP_PORT: Final = 8000  # the tunnel's HTTP port, as OPEN names it


class HttpConnection(ApplicationConnection):
    """One accepted connection of an application.

    Arguments: *open_stream* opens a stream on a session and raises StreamRefused where there is none; *peer*, the
    application as ``ip:port``; *tunnel*, "customer/tunnel" for messages; *limits*; *on_end*, called once when the
    connection is gone; *trusted*, the networks whose X-Forwarded-Proto, -Host and -Port are believed; *port*, the
    tunnel's HTTP port.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        *,
        peer: str,
        tunnel: str,
        limits: HttpLimits,
        on_end: Callable[[], None],
        trusted: Sequence[IPv4Network | IPv6Network] = (),
        port: int = HTTP_PORT,
    ) -> None:
        super().__init__(limits, on_end)
        self._open_stream = open_stream
        self._peer = peer
        self._tunnel = tunnel
        address = peer.rpartition(":")[0].strip("[]")
        believed = bool(trusted) and any(ip_address(address) in network for network in trusted)
        self._reader = RequestReader(limits, address=address, trusted=believed, port=port)
        self._advancing = False
        self._head_begun = False
        self._request: Request | None = None  # the one under way
        self._body: Body | None = None  # its body, while not all of it is here
        self._responding = False  # the head of its response has been written
        self._last = False  # no request is read after it
        self._retried = False
        self._upstream: UpstreamStream | None = None
        self._switched = False
        self._upstream_ended = False

    # -- for the listener ---------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Close once the request under way has its response; a switched connection goes on until :meth:`abort`."""
        self._draining = True
        if self._transport is not None and self._request is None and not self._input:
            self._close()

    def abort(self) -> None:
        """End now: with a reset where a response is under way, so that it does not look whole."""
        self._draining = True
        if self._transport is not None:
            if self._responding or self._switched or self._closing:
                self._reset()
            else:
                self._close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Pass on what has been read, as far as it may go now; read on only when all of it has gone."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._input and not self._closing and self._step():
                pass
            if self._eof and not self._closing:
                self._end_input()
        finally:
            self._advancing = False
        self._pace_reading()

    def _pace_reading(self) -> None:
        """Read on only where what has been read could go, or is the beginning of a head."""
        if not self._closing:
            upstream = self._upstream
            waits = bool(self._input) and (self.full or not self._head_begun)
            self._pause_reading(waits or (upstream is not None and upstream.blocked))

    def _step(self) -> bool:
        """Pass on a part of the input; return whether more may follow at once."""
        upstream = self._upstream
        if self._request is None:
            return not self.full and self._begin_request()
        if upstream is None or upstream.blocked:
            return False
        if self._switched:
            data, self._input = self._input, b""
            upstream.send(data)
            return False
        return self._body is not None and self._send_body(upstream, self._body)

    def _begin_request(self) -> bool:
        data = self._input
        if data[:2] == b"\r\n" and not self._head_begun:
            # RFC 9112 section 2.2: an empty line before a request is ignored; one is enough.
            data = self._input = data[2:]
        end = data.find(HEAD_END) + 4
        if end < 4 or end > self._limits.head_size:
            return self._await_head(data)
        self._head_begun = False
        self._retried = self._responding = False
        out: list[bytes] = []
        try:
            request = self._reader.read(data[:end])
            body = request.body
            if body is not None:
                out.append(request.head)
                end = body.take(data, end, out)
        except BadMessage as error:
            self._refuse(error)
            return False
        self._input = data[end:]
        self._request = request
        self._body = body if body is not None and not body.done else None
        self._last = not request.keep_alive
        self._send_request(request, b"".join(out) if out else request.head)
        self._expect_progress()
        return True

    def _await_head(self, data: bytes) -> bool:
        if len(data) >= self._limits.head_size:
            self._refuse(BadMessage(431, "HEAD_TOO_LARGE", f"the request head is over {self._limits.head_size} bytes"))
        elif has_misplaced_bytes(data):
            self._refuse(BadMessage(400, "BAD_REQUEST", "the request holds bytes that no HTTP request holds"))
        elif data and not self._head_begun:
            self._head_begun = True
            self._deadline.set(self._limits.head_timeout)
        return False

    def _send_request(self, request: Request, data: bytes) -> None:
        """Send *data*, the beginning of the request, on the stream that is kept, else on a new one."""
        upstream = self._upstream
        target = request.route.target
        if upstream is None or not upstream.idle or upstream.target != target:
            if upstream is not None:
                upstream.finish()
                self._upstream = None
            try:
                upstream = self._upstream = UpstreamStream(self, self._open_stream, target, self._peer)
            except StreamRefused as error:
                self._answer(no_session(error.code, error.reason, tunnel=self._tunnel, host=target.host))
                return
        upstream.begin(request, data)

    def _send_body(self, upstream: UpstreamStream, body: Body) -> bool:
        out: list[bytes] = []
        try:
            end = body.take(self._input, 0, out)
        except BadMessage as error:
            self._refuse(error)
            return False
        self._input = self._input[end:]
        if body.done:
            self._body = None
        if out:
            upstream.send(b"".join(out))
        if not self._responding:
            self._expect_progress()
        return True

    def _end_input(self) -> None:
        """The application has sent its last byte: what it has asked for it still gets."""
        upstream = self._upstream
        if self._switched:
            if upstream is not None and not upstream.blocked and not self._input:
                upstream.send_end()
                if self._upstream_ended:
                    self._close()
        elif self._request is None:
            if not self.full:
                self._close()
        elif self._body is not None and not self._input:
            self._reset()  # a request cut short
        else:
            self._last = self._last or not self._input

    # -- responses (ResponseReceiver) ---------------------------------------------------------------------------------

    def response_begun(self, request: Request, response: Response) -> bytes:
        if response.interim:
            return b"" if request.http_1_0 else response.render(request, close=False)  # RFC 9110 section 15.2
        self._responding = True
        if response.status != 101 and (
            self._draining
            or self._body is not None  # the upstream does not want the rest of the request
            or response.until_end
        ):
            self._last = True
        if not self.full:
            self._deadline.clear()
        return response.render(request, close=self._last)

    def switched(self) -> None:
        self._switched = True
        self._advance()

    def response_ended(self, *, reusable: bool) -> None:
        if self._body is not None:
            self._let_go("the response came before the end of the request")
        elif not reusable and self._upstream is not None:
            self._upstream.finish()
            self._upstream = None
        self._end_request()

    def response_failed(self, code: ErrorCode, reason: str, *, untouched: bool) -> None:
        upstream, self._upstream = self._upstream, None
        request = self._request
        if request is None or self._responding:
            self._reset()
            return
        # A kept stream may be closed just as a request goes out; a client that stops rejects what it has not begun.
        lost_race = upstream is not None and upstream.requests > 1 and not upstream.answered and request.repeatable
        not_begun = untouched and code in (ErrorCode.SHUTDOWN, ErrorCode.LIMIT) and request.body is None
        if (lost_race or not_begun) and not self._retried:
            self._retried = True
            self._send_request(request, request.head)
        else:
            self._answer(stream_failure(code, reason, tunnel=self._tunnel, host=request.route.target.host))

    def response_broken(self, error: BadMessage) -> None:
        self._upstream = None
        logger.warning("%s %s: %s", self._tunnel, self._host(), error.reason)
        if self._responding:
            self._reset()
        else:
            self._answer(Failure(502, error.code, UPSTREAM, f"For {self._host()} {error.reason}."))

    def switched_end(self) -> None:
        self._upstream_ended = True
        if self._transport is None:
            return
        if self._eof and not self._input and self._upstream is not None and not self._upstream.blocked:
            self._close()
        else:
            self._transport.write_eof()

    def request_resumed(self) -> None:
        if not self._responding:
            self._expect_progress()
        self._advance()

    # -- the gateway's own responses ----------------------------------------------------------------------------------

    def _refuse(self, error: BadMessage) -> None:
        """Answer a request that is not forwarded, or not further, and close: where the next one begins is unknown."""
        if self._responding and self._request is not None:
            self._reset()
            return
        self._let_go("the request is malformed")
        self._last = True
        self._answer(Failure(error.status, error.code, APPLICATION, f"{error.reason[:1].upper()}{error.reason[1:]}."))

    def _answer(self, failure: Failure) -> None:
        """End the request under way with a response of our own."""
        request = self._request
        self._last = self._last or self._draining or self._body is not None
        logger.info("%s %s: %d %s: %s", self._tunnel, self._host(), failure.status, failure.code, failure.message)
        connection = b"close" if self._last else b"keep-alive"
        if request is None:
            self.write(render_failure(failure, connection=connection))
        else:
            self.write(
                render_failure(
                    failure,
                    accept=request.accept,
                    request_id=request.request_id,
                    head_only=request.method == b"HEAD",
                    connection=connection,
                )
            )
        self._end_request()

    def _host(self) -> str:
        return self._request.route.target.host if self._request is not None else "-"

    # -- the end ------------------------------------------------------------------------------------------------------

    def _end_request(self) -> None:
        unread = self._body is not None or bool(self._input)
        self._request = self._body = None
        self._responding = False
        if self._last or self._draining:
            self._close(linger=unread)
        else:
            self._deadline.set(self._limits.idle_timeout)
            self._advance()

    def _let_go(self, reason: str) -> None:
        """Part with the stream, gracefully where no request is under way on it."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            if upstream.idle:
                upstream.finish()
            else:
                upstream.cancel(reason)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _expect_progress(self) -> None:
        """Set the time by which the request must go on: by the application's doing, or by the upstream's."""
        if self._request is not None:
            limits = self._limits
            self._deadline.set(limits.body_timeout if self._waits_for_body else limits.response_timeout)

    def _room_made(self) -> None:
        if self._upstream is not None:
            self._upstream.consume_held()
        if self._closing:
            return
        if self._request is None:
            self._deadline.set(self._limits.idle_timeout)
        elif self._responding:
            self._deadline.clear()
        else:
            self._expect_progress()

    @property
    def _waits_for_body(self) -> bool:
        return self._body is not None and self._upstream is not None and not self._upstream.blocked

    def _time_out(self) -> None:
        if self._request is None:
            if self._input:
                self._refuse(BadMessage(408, "HEAD_TIMEOUT", "the request head did not come in time"))
            else:
                self._close()
        elif self._waits_for_body:
            self._refuse(BadMessage(408, "BODY_TIMEOUT", "the request body did not come in time"))
        else:
            host, limit = self._request.route.target.host, self._limits.response_timeout
            self._let_go("the response did not come in time")
            message = f"The upstream of {host} took the request and gave no response within {limit:g} s."
            self._answer(Failure(504, "RESPONSE_TIMEOUT", UPSTREAM, message))
