"""The upstream's side of HTTP connections: one stream, the requests sent on it and the responses that come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from ...endpoint import Endpoint, StreamHandler
from ...protocol import ErrorCode, Stream, Target
from .framing import Body
from .grammar import HEAD_END, BadMessage, has_misplaced_bytes
from .requests import Request
from .responses import Response, read_response

OpenStream = Callable[[Target, str, StreamHandler], tuple[Endpoint, Stream]]

MAX_HEAD: Final = 64 * 1024  # bytes of a response head
FINISH_TIMEOUT: Final = 5.0  # seconds for an upstream to end its side of a stream that is no longer needed


class ResponseReceiver(Protocol):
    """Whoever sent the request: the application's side."""

    full: bool  # what is written does not leave at present

    def response_begun(self, request: Request, response: Response) -> bytes:
        """Return the head to send for *response*, which may be interim."""

    def switched(self) -> None:
        """The 101 has been written: bytes pass as they are from now on, both ways."""

    def write(self, data: bytes) -> None: ...

    def response_ended(self, *, reusable: bool) -> None:
        """The last byte of the response has been written; *reusable*: the stream takes another request."""

    def response_failed(self, code: ErrorCode, reason: str, *, untouched: bool) -> None:
        """The stream is gone in the middle of a request; *untouched*: nothing of it can have reached an upstream."""

    def response_broken(self, error: BadMessage) -> None:
        """What the upstream sent is not to be passed on; the stream is reset."""

    def switched_end(self) -> None:
        """After 101: the upstream has sent its last byte."""

    def request_resumed(self) -> None:
        """What was given to :meth:`UpstreamStream.send` has all left."""


class UpstreamStream:
    """One stream to the upstream of a Host, for one request after another.

    Raises StreamRefused where none can be opened. Bytes of responses are consumed when the receiver is not full, else
    by :meth:`consume_held`, so that an application that does not read stops its upstream and nothing piles up here.
    """

    def __init__(self, receiver: ResponseReceiver, open_stream: OpenStream, target: Target, source: str) -> None:
        self.target = target
        self.requests = 0
        self.answered = False  # a byte has come since the latest request
        self.held = 0  # bytes written by the receiver while it was full, not yet consumed
        self._receiver: ResponseReceiver | None = receiver
        self._request: Request | None = None
        self._head = b""  # the beginning of a response head
        self._body: Body | None = None
        self._reusable = False
        self._switched = False  # 101: bytes pass as they come
        self._ahead = b""  # bytes of the request that have no credit yet
        self._finish_timer: asyncio.TimerHandle | None = None
        self._endpoint, self._stream = open_stream(target, source, self)

    # -- for the application's side -----------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether a request can be sent."""
        stream = self._stream
        gone = stream.closed or stream.fin_received or stream.fin_sent or self._endpoint.draining
        return self._request is None and not gone

    @property
    def blocked(self) -> bool:
        """Whether bytes of the request wait for credit; ``request_resumed`` follows."""
        return bool(self._ahead)

    def begin(self, request: Request, data: bytes) -> None:
        """Send *data*, the head of *request* and maybe more; the response goes to the receiver."""
        self._request = request
        self.answered = False
        self.requests += 1
        self.send(data)

    def send(self, data: bytes) -> None:
        """Send *data* now, or as credit comes."""
        if not self._ahead:
            allowed = self._endpoint.may_send(self._stream)
            if allowed >= len(data):
                self._endpoint.send_data(self._stream, data)
                return
        self._ahead += data
        self._send_ahead()

    def send_end(self) -> None:
        """After 101: the application has sent its last byte."""
        self._endpoint.send_fin(self._stream)

    def consume_held(self) -> None:
        """The receiver is no longer full: give the credit back."""
        held, self.held = self.held, 0
        if held:
            self._endpoint.consume(self._stream, held)

    def finish(self) -> None:
        """Let go of a stream with no request under way, with half-closes so that the upstream sees an end."""
        self._receiver = None
        if self.held or self._ahead:
            self._reset()  # gives back at once the credit of what the application has not taken
        elif not self._stream.closed:
            self._endpoint.send_fin(self._stream)
            if not self._stream.closed:
                self._finish_timer = asyncio.get_running_loop().call_later(FINISH_TIMEOUT, self._reset)

    def cancel(self, reason: str) -> None:
        """Reset the stream, whatever is under way."""
        self._receiver = None
        self._reset(reason)

    def _reset(self, reason: str = "") -> None:
        self._request = None
        self._ahead = b""
        self._endpoint.reset_stream(self._stream, ErrorCode.CANCELLED, reason)

    # -- StreamHandler ------------------------------------------------------------------------------------------------

    def stream_accepted(self) -> None:
        """Nothing to do: the request has been sent without waiting."""

    def stream_rejected(self, code: ErrorCode, reason: str) -> None:
        self._fail(code, reason, untouched=True)

    def stream_reset(self, code: ErrorCode, reason: str) -> None:
        self._fail(code, reason, untouched=False)

    def session_draining(self) -> None:
        if self._request is None and self._receiver is not None:
            self.finish()  # a kept stream would only make the session wait for its end

    def check_connection(self) -> None:
        """Nothing to do: the application's connection is watched by the event loop."""

    def resume_sending(self) -> None:
        if self._ahead:
            self._send_ahead()
            if not self._ahead and self._receiver is not None:
                self._receiver.request_resumed()

    def data_received(self, data: memoryview) -> None:
        receiver = self._receiver
        request = self._request
        if receiver is None or request is None:
            self._unexpected(len(data))
            return
        self.answered = True
        ended = False
        excess = False
        try:
            if self._switched:
                receiver.write(bytes(data))
            else:
                ended, excess = self._pass_on(bytes(data), request, receiver)
        except BadMessage as error:
            self._receiver = None
            self._reset(error.reason)
            receiver.response_broken(error)
            return
        if receiver.full:
            self.held += len(data)
        else:
            self._endpoint.consume(self._stream, len(data))
        if ended:
            self._end(receiver, reusable=self._reusable and not excess)

    def fin_received(self) -> None:
        receiver = self._receiver
        if self._finish_timer is not None:
            self._finish_timer.cancel()
        if receiver is None or self._request is None:
            self._endpoint.send_fin(self._stream)
        elif self._switched:
            receiver.switched_end()
        elif self._body is not None and self._body.endless:
            self._end(receiver, reusable=False)
        else:
            self._endpoint.reset_stream(self._stream, ErrorCode.CANCELLED, "the response is cut short")
            self._fail(ErrorCode.OK, "", untouched=False)

    # -- responses ----------------------------------------------------------------------------------------------------

    def _pass_on(self, data: bytes, request: Request, receiver: ResponseReceiver) -> tuple[bool, bool]:
        """Write what *data* holds of the response; return whether it has ended, and whether bytes follow its end."""
        out: list[bytes] = []
        at = 0
        while self._body is None:
            if self._head:
                data, self._head = self._head + data, b""
            end = data.find(HEAD_END, at) + 4
            if (end if end >= 4 else len(data)) - at > MAX_HEAD:
                raise BadMessage(502, "BAD_RESPONSE", f"the upstream's response head is over {MAX_HEAD} bytes")
            if end < 4:
                self._head = self._begin_head(data[at:])
                if out:
                    receiver.write(b"".join(out))
                return False, False
            response = read_response(data[at:end], request)
            at = end
            out.append(receiver.response_begun(request, response))
            if response.status == 101:
                self._switched = True
                out.append(data[at:])
                receiver.write(b"".join(out))
                receiver.switched()
                return False, False
            if not response.interim:
                self._reusable = response.reusable
                self._body = response.body
                if self._body is None:
                    receiver.write(b"".join(out))
                    return True, at < len(data)
        body = self._body
        if at < len(data):
            at = body.take(data, at, out)
        receiver.write(out[0] if len(out) == 1 else b"".join(out))
        return body.done, at < len(data)

    def _begin_head(self, data: bytes) -> bytes:
        if has_misplaced_bytes(data):
            raise BadMessage(502, "BAD_RESPONSE", "the upstream sent bytes that no HTTP response holds")
        return data

    def _end(self, receiver: ResponseReceiver, *, reusable: bool) -> None:
        self._request = self._body = None
        receiver.response_ended(reusable=reusable)

    def _fail(self, code: ErrorCode, reason: str, *, untouched: bool) -> None:
        """The stream is gone."""
        if self._finish_timer is not None:
            self._finish_timer.cancel()
        receiver, request = self._receiver, self._request
        self._receiver = self._request = None
        self._ahead = b""
        if receiver is not None and request is not None:
            receiver.response_failed(code, reason, untouched=untouched)

    def _unexpected(self, size: int) -> None:
        """Bytes that nobody waits for: an idle upstream that speaks can't be trusted with another request."""
        self._endpoint.consume(self._stream, size)
        if self._receiver is not None:
            self._receiver = None
            self._reset("bytes without a request")

    def _send_ahead(self) -> None:
        endpoint, stream = self._endpoint, self._stream
        while self._ahead:
            allowed = endpoint.may_send(stream)
            if not allowed:
                return
            endpoint.send_data(stream, self._ahead[:allowed])
            self._ahead = self._ahead[allowed:]
