"""A session run over a transport: the same code at both ends.

The endpoint feeds the sans-I/O session, gathers small frames into one message, decides whose turn it is to send,
watches that the peer is alive, and tells the owners of streams and of the session what happened.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from time import monotonic as clock  # uvloop's own time is cached and counts whole milliseconds
from typing import Final

from .care import StreamCare
from .handlers import EndpointHandler, ProbeResult, StreamHandler, Timing
from .protocol import MAX_DATA, ErrorCode, Exposure, Hello, Ring, Role, Session, State, Stream, StreamRefused, Target
from .protocol import events as ev
from .protocol.events import DataReceived
from .protocol.frames import DATA, HEADER, HEADER_SIZE
from .protocol.session import Buffer
from .transport import MessageTransport

logger = logging.getLogger(__name__)

__all__ = ["Endpoint", "EndpointHandler", "ProbeResult", "StreamHandler", "Timing", "shared_buffer"]

FLUSH_SIZE: Final = 65536  # bytes of gathered frames that leave at once
FLUSH_GAP: Final = 150e-6  # seconds since the last flush after which a lone frame leaves at once
MAX_UNSENT: Final = 4 * 1024 * 1024  # bytes a peer may leave unread before its session is cut
ROUND_TRIP_INTERVAL: Final = 1.0  # seconds between measurements while bytes flow


_shared = threading.local()


def shared_buffer(headroom: int) -> bytearray:
    """Return this thread's buffer for bulk bytes: headroom, a frame header, MAX_DATA bytes.

    It is filled and sent within one callback, so every endpoint of a thread can use the same one.
    """
    buffers: dict[int, bytearray] = _shared.__dict__.setdefault("buffers", {})
    if headroom not in buffers:
        buffers[headroom] = bytearray(headroom + HEADER_SIZE + MAX_DATA)
    return buffers[headroom]


class Endpoint:
    """One end of one session; give it to a transport as its receiver.

    Arguments: the *role*, the *hello* for the peer, the *handler* of the session and the *timing*.
    """

    def __init__(self, role: Role, hello: Hello, handler: EndpointHandler, timing: Timing | None = None) -> None:
        self.transport: MessageTransport | None = None
        self.role = role
        self._hello = hello
        self._handler = handler
        self.timing = timing or Timing()
        self._handlers: dict[int, StreamHandler] = {}
        self._ring: Ring[int] = Ring()
        self._congested = False
        self._ended: tuple[ErrorCode, str] | None = None
        self._last_word: tuple[ErrorCode, str] | None = None  # the peer's GOAWAY with no time left
        self._probes: dict[int, asyncio.Future[ProbeResult]] = {}
        self._care = StreamCare(self)

    # -- the transport's side -----------------------------------------------------------------------------------------

    def transport_ready(self, transport: MessageTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self.transport = transport
        self.session = Session(self.role, self._hello, headroom=transport.headroom)
        self._buffer = shared_buffer(transport.headroom)
        self._header_at = transport.headroom
        self._data_view = memoryview(self._buffer)[transport.headroom + HEADER_SIZE :]
        self._flush_planned = False
        self._flushed_at = 0.0
        now = clock()
        self._heard_at = now
        self._pinged_at: float | None = None
        self._measured_at = 0.0
        self._timer = self._loop.call_later(self.timing.hello, self._check_hello)
        self._flush()

    def message_received(self, message: memoryview) -> None:
        now = self._heard_at = clock()
        self._pinged_at = None
        handlers = self._handlers
        for event in self.session.receive_message(message, now):
            if type(event) is DataReceived:
                handler = handlers.get(event.stream.stream_id)
                if handler is not None:
                    handler.data_received(event.data)
            else:
                self._dispatch(event)
        if self.session.pending and not self._flush_planned:
            self._plan_flush(now)

    def sending_paused(self) -> None:
        self._congested = True

    def sending_resumed(self) -> None:
        self._congested = False
        self._run_ring()

    def transport_lost(self, code: int, reason: str) -> None:
        # GOAWAY says why; a close code may not pass every server and its reason not any.
        end = self._last_word or (ErrorCode.from_close_code(code), reason or f"the WebSocket closed with {code}")
        self._end(*end)
        self.transport = None

    # -- the owner's side ---------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """The name of this process, as HELLO tells it."""
        return self._hello.instance

    @property
    def streams(self) -> int:
        """How many streams are live."""
        return len(self._handlers)

    def handlers(self) -> list[StreamHandler]:
        """The owners of the live streams."""
        return list(self._handlers.values())

    @property
    def open(self) -> bool:
        """Whether HELLO went both ways and the session has not ended."""
        return self._ended is None and self.transport is not None and self.session.state is State.OPEN

    @property
    def draining(self) -> bool:
        """Whether either side has said GOAWAY: no new streams."""
        return self.transport is not None and self.session.draining

    @property
    def bytes_received(self) -> int:
        """Bytes of streams received so far; the headers of frames and messages are not counted."""
        return self.session.bytes_received if self.transport is not None else 0

    @property
    def bytes_sent(self) -> int:
        """Bytes of streams sent so far."""
        return self.session.bytes_sent if self.transport is not None else 0

    @property
    def round_trip(self) -> float | None:
        """The round trip to the peer in seconds, once measured."""
        return self.session.round_trip if self.transport is not None else None

    def open_stream(self, target: Target, source: str, handler: StreamHandler) -> Stream:
        """Open a stream for *handler*; data may follow at once. Raises StreamRefused (gateway only)."""
        if self._ended is not None or self.transport is None:
            raise StreamRefused(ErrorCode.LOST, "the session has ended")
        stream = self.session.open_stream(target, source)
        self._handlers[stream.stream_id] = handler
        self._care.begin()
        self._plan_flush(clock())
        return stream

    def accept_stream(self, stream: Stream) -> None:
        """Say that the upstream was reached (client)."""
        self.session.accept_stream(stream)
        self._plan_flush(clock())

    def reject_stream(self, stream: Stream, code: ErrorCode, reason: str) -> None:
        """Say why the upstream was not reached; the stream is gone (client)."""
        self._forget(stream)
        self.session.reject_stream(stream, code, reason)
        self._plan_flush(clock())

    def reset_stream(self, stream: Stream, code: ErrorCode, reason: str = "") -> None:
        """Give a stream up; nothing is called back."""
        self._forget(stream)
        self.session.reset_stream(stream, code, reason)
        self._plan_flush(clock())

    def may_send(self, stream: Stream) -> int:
        """Return how many bytes of *stream* may be sent now, at most MAX_DATA.

        With 0 the handler must wait; ``resume_sending`` tells when it is its turn.
        """
        # Asked for every read: plain comparisons, where min() and len() would cost more than the rest.
        allowed = stream.send.credit
        if allowed <= 0 or stream.fin_sent or stream.closed:
            return 0  # a WINDOW frame or nothing wakes it
        session_credit = self.session.send_window.credit
        if self._congested or session_credit <= 0:
            self._ring.wait(stream.stream_id)
            return 0
        allowed = allowed if allowed < MAX_DATA else MAX_DATA
        allowed = allowed if allowed < session_credit else session_credit
        if self._ring.deficits:
            self._ring.wait(stream.stream_id)
            return min(allowed, max(self._ring.allowance(stream.stream_id), 0))
        return allowed

    def send_data(self, stream: Stream, data: Buffer) -> None:
        """Send *data*, no more than :meth:`may_send` said, gathered with what else leaves in this pass of the loop."""
        pending = self.session.send_data(stream, data)
        if self._ring.deficits:
            self._ring.spend(stream.stream_id, len(data))
        if not self._flush_planned:
            self._plan_flush(clock())
        elif pending > FLUSH_SIZE:
            self._flush()

    def bulk_buffer(self) -> memoryview:
        """Return the memory to read up to MAX_DATA bytes into, for :meth:`send_bulk` right after."""
        return self._data_view

    def send_bulk(self, stream: Stream, size: int) -> None:
        """Send the first *size* bytes of :meth:`bulk_buffer`: a full frame leaves from where it lies."""
        if size < MAX_DATA:
            self.send_data(stream, self._data_view[:size])
            return
        self._flush()
        self.session.spend(stream, size)
        HEADER.pack_into(self._buffer, self._header_at, DATA << 24 | size, stream.stream_id)
        self._ring.spend(stream.stream_id, size)
        if self.transport is not None:
            self.transport.send_message(self._buffer)

    def give_up(self, stream: Stream, code: ErrorCode, reason: str) -> None:
        """Reset a stream, and tell its handler as if the peer had."""
        handler = self._handlers.get(stream.stream_id)
        self.reset_stream(stream, code, reason)
        if handler is not None:
            handler.stream_reset(code, reason)

    def send_fin(self, stream: Stream) -> None:
        """Half-close: this was the last byte from here."""
        self.session.send_fin(stream)
        if stream.closed:
            self._forget(stream)
        else:
            self._ring.leave(stream.stream_id)
        self._plan_flush(clock())

    def consume(self, stream: Stream, size: int) -> None:
        """Say that *size* received bytes have left for where they go; credit goes back to the peer."""
        now = clock()
        granted = self.session.consume(stream, size, now)
        if now - self._measured_at > ROUND_TRIP_INTERVAL:
            self._measured_at = now
            self.session.send_ping(now)
            granted = True
        if granted and not self._flush_planned:
            self._plan_flush(now)

    async def probe(self, target: Target, timeout: float) -> ProbeResult:
        """Have the client dial *target*; *timeout* in seconds for the answer (gateway)."""
        if not self.open:
            return ProbeResult(ErrorCode.LOST, 0.0, "the session is not open")
        probe_id = self.session.send_probe(target)
        future = self._probes[probe_id] = self._loop.create_future()
        self._plan_flush(clock())
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            return ProbeResult(ErrorCode.TIMEOUT, timeout, f"no report from the client within {timeout:g} s")
        finally:
            del self._probes[probe_id]

    def send_report(self, probe_id: int, result: ProbeResult) -> None:
        """Answer a probe (client)."""
        if self.open:
            self.session.send_report(probe_id, result.code, result.elapsed, result.reason)
            self._plan_flush(clock())

    def send_update(self, exposure: Exposure) -> None:
        """Tell the client what the tunnel exposes from now on (gateway)."""
        if self.open:
            self.session.send_update(exposure)
            self._plan_flush(clock())

    def announce_end(self, code: ErrorCode, deadline: float, reason: str = "") -> None:
        """Send GOAWAY: no new streams, *deadline* seconds for the open ones."""
        if self.open:
            self.session.send_goaway(code, deadline, reason)
            self._flush()
            self._tell_draining()

    def close(self, code: ErrorCode, reason: str) -> None:
        """End the session: GOAWAY, the closing handshake, a reset for every stream that is left."""
        transport = self.transport
        if transport is None or self._ended is not None:
            return
        if self.session.state is not State.CLOSED:
            self.session.send_goaway(code, 0, reason)
        self._flush()
        transport.close(code.close_code, reason)
        self._end(code, reason)

    # -- events -------------------------------------------------------------------------------------------------------

    def _dispatch(self, event: ev.Event) -> None:  # noqa: PLR0912 - one branch per event reads best
        if isinstance(event, ev.CreditReceived):
            self._credit_received(event.stream)
        elif isinstance(event, ev.StreamOpened):
            handler = self._handler.stream_opened(event.stream)
            if not event.stream.closed:  # it may have been rejected at once
                self._handlers[event.stream.stream_id] = handler
                self._care.begin()
        elif isinstance(event, ev.StreamAccepted):
            if (owner := self._handlers.get(event.stream.stream_id)) is not None:
                owner.stream_accepted()
        elif isinstance(event, ev.FinReceived):
            self._fin_received(event.stream)
        elif isinstance(event, ev.StreamRejected):
            if (owner := self._forget(event.stream)) is not None:
                owner.stream_rejected(event.code, event.reason)
        elif isinstance(event, ev.StreamReset):
            if (owner := self._forget(event.stream)) is not None:
                owner.stream_reset(event.code, event.reason)
        elif isinstance(event, ev.ReportReceived):
            future = self._probes.get(event.probe_id)
            if future is not None and not future.done():
                future.set_result(ProbeResult(event.code, event.elapsed, event.reason))
        elif isinstance(event, ev.ProbeReceived):
            self._handler.probe_requested(event.probe_id, event.target)
        elif isinstance(event, ev.ExposureChanged):
            self._handler.exposure_changed(event.exposure)
        elif isinstance(event, ev.GoawayReceived):
            if not event.deadline:
                self._last_word = (event.code, event.reason)
            self._tell_draining()
            self._handler.session_draining(event.code, event.deadline, event.reason)
        elif isinstance(event, ev.SessionOpened):
            self._session_opened(event.hello)
        elif isinstance(event, ev.SessionFailed):
            self._session_failed(event.code, event.reason)

    def _session_opened(self, hello: Hello) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(self.timing.idle, self._check_alive)
        self.session.send_ping(clock())
        self._handler.session_opened(hello)

    def _session_failed(self, code: ErrorCode, reason: str) -> None:
        logger.warning("the peer broke the protocol: %s (%s); the session ends", reason, code.name)
        transport = self.transport
        self._flush()
        if transport is not None:
            transport.close(code.close_code, reason)
        self._end(code, reason)

    def _fin_received(self, stream: Stream) -> None:
        handler = self._forget(stream) if stream.closed else self._handlers.get(stream.stream_id)
        if handler is not None:
            handler.fin_received()

    def _credit_received(self, stream: Stream | None) -> None:
        if stream is None:
            self._run_ring()
        elif (handler := self._handlers.get(stream.stream_id)) is not None and stream.stream_id not in self._ring:
            handler.resume_sending()

    def _tell_draining(self) -> None:
        for handler in self.handlers():
            handler.session_draining()

    def _forget(self, stream: Stream) -> StreamHandler | None:
        self._ring.leave(stream.stream_id)
        return self._handlers.pop(stream.stream_id, None)

    def _end(self, code: ErrorCode, reason: str) -> None:
        """Tell everyone, once, that the session is over."""
        if self._ended is not None:
            return
        self._ended = (code, reason)
        self._timer.cancel()
        self._care.end()
        self.session.close()
        handlers, self._handlers = self._handlers, {}
        self._ring = Ring()
        for handler in handlers.values():
            handler.stream_reset(ErrorCode.LOST, reason)
        for future in self._probes.values():
            if not future.done():
                future.set_result(ProbeResult(ErrorCode.LOST, 0.0, reason))
        self._handler.session_closed(code, reason)

    # -- sending ------------------------------------------------------------------------------------------------------

    def _plan_flush(self, now: float) -> None:
        """Let a lone frame leave at once; gather the frames of a busy pass of the loop into one message."""
        if self._flush_planned:
            return
        if now - self._flushed_at > FLUSH_GAP:
            self._flush()
        else:
            self._flush_planned = True
            self._loop.call_soon(self._flush)
        self._flushed_at = now

    def _flush(self) -> None:
        self._flush_planned = False
        transport = self.transport
        if transport is None:
            return
        while (message := self.session.data_to_send()) is not None:
            transport.send_message(message)
            # Answers to what the peer sends are not under its windows: a peer that asks and never reads is cut off.
            if self._congested and transport.unsent_bytes() > MAX_UNSENT:
                transport.abort()
                return

    def _run_ring(self) -> None:
        """Give each waiting stream its turn, while the transport and the session's credit allow it.

        Where that was room enough for a turn of each nobody has to wait: all go on by themselves.
        """
        ring = self._ring
        last: int | None = None
        for _ in range(len(ring)):
            if not len(ring) or self._congested or self.session.send_window.credit <= 0:
                return
            stream_id = ring.begin_turn()
            handler = self._handlers.get(stream_id)
            if handler is None:
                ring.leave(stream_id)
                continue
            handler.resume_sending()
            if ring.allowance(stream_id) > 0 and not self._congested and self.session.send_window.credit > 0:
                ring.leave(stream_id)  # it has nothing more to send
            ring.end_turn()
        for stream_id in ring.dissolve():
            had_room = not len(ring)
            if (handler := self._handlers.get(stream_id)) is not None:
                handler.resume_sending()
            if had_room and stream_id in ring:
                last = stream_id  # it took what room was left: its next turn comes after those of the others
        if last is not None:
            ring.leave(last)
            ring.wait(last)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _check_hello(self) -> None:
        logger.warning("no HELLO within %g s; the session ends", self.timing.hello)
        self.close(ErrorCode.TIMEOUT, "no HELLO in time")

    def _check_alive(self) -> None:
        """Ask a silent peer whether it is there, and end the session where it does not answer (SPEC.md section 9)."""
        now = clock()
        timing = self.timing
        if self._pinged_at is not None and now - self._pinged_at >= timing.answer:
            transport = self.transport
            silence = now - self._heard_at
            logger.warning("nothing heard from the peer for %.0f s; the session ends", silence)
            self._end(ErrorCode.TIMEOUT, f"nothing heard for {silence:.0f} s")
            if transport is not None:
                transport.abort()
            return
        if self._pinged_at is None and now - self._heard_at >= timing.idle:
            self._pinged_at = now
            self.session.send_ping(now)
            self._flush()
        due = self._heard_at + timing.idle if self._pinged_at is None else self._pinged_at + timing.answer
        self._timer = self._loop.call_later(max(due - now, 0.001), self._check_alive)
