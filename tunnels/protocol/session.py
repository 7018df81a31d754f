"""The state of one session and its streams, without sockets, tasks or a clock (SPEC.md sections 4 to 7).

Give :meth:`Session.receive_message` each message that arrives and handle the events it yields; send what
:meth:`Session.data_to_send` returns. Small frames are gathered and leave as one message. Bulk bytes pass beside: the
caller writes the header in front of them where they lie, and :meth:`Session.spend` accounts for them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Final, NoReturn

from . import events, frames
from .errors import ErrorCode, ProtocolError, StreamRefused
from .events import DataReceived
from .frames import (
    ACCEPT,
    DATA,
    FIN,
    GOAWAY,
    HEADER,
    HEADER_SIZE,
    HELLO,
    MAX_DATA,
    MAX_MESSAGE,
    OPEN,
    PING,
    PONG,
    PROBE,
    REJECT,
    REPORT,
    RESET,
    UPDATE,
    WINDOW,
    Exposure,
    Hello,
    Limits,
    Target,
    pack_header,
)
from .stream import Stream
from .windows import MAX_STREAM_WINDOW, GrowthBudget, ReceiveWindow, SendWindow

Buffer = bytes | bytearray | memoryview

MAX_PINGS_UNANSWERED: Final = 4
MAX_PER_SECOND: Final = 20  # PINGs and UPDATEs of the peer
MAX_GOAWAYS: Final = 8
_PING = struct.Struct(">Q")


class Role(Enum):
    """Which end of the session this is; only the gateway opens streams (section 5)."""

    GATEWAY = "gateway"
    CLIENT = "client"


class State(Enum):
    """The life of a session (section 5.1)."""

    CONNECTING = "connecting"  # HELLO sent, the peer's not yet received
    OPEN = "open"
    CLOSED = "closed"


# Looked up for every frame; an Enum's member costs the most.
_CLOSED = State.CLOSED
_pack_header = HEADER.pack
_unpack_header = HEADER.unpack_from


class Session:
    """One end of a session.

    Arguments: the *role*; the *hello* that goes to the peer, with our limits; *headroom*, the bytes to leave free at
    the start of each message for the transport's own header.
    """

    def __init__(self, role: Role, hello: Hello, *, headroom: int = 0) -> None:
        self.role = role
        self.state = State.CONNECTING
        self.peer: Hello | None = None
        self.streams: dict[int, Stream] = {}
        self.draining = False  # GOAWAY sent or received: no new streams
        self.round_trip: float | None = None  # seconds, the least of the latest samples
        self._limits = hello.limits
        self._headroom = headroom
        self._message_limit = headroom + MAX_MESSAGE
        self._outgoing = bytearray(headroom)
        self._gathered: deque[bytearray] = deque()  # messages that are full
        self._gathered_bytes = 0
        self._last_stream_id = -1 if role is Role.GATEWAY else 0  # the highest id opened on this session
        self.send_window = SendWindow(0)
        self._receive_window = ReceiveWindow(self._limits.session_window)
        self._budget = GrowthBudget(self._limits.session_window // 2)
        self._pings: dict[int, float] = {}
        self._last_ping_id = 0
        self._samples: deque[float] = deque(maxlen=8)
        self._pings_received: deque[float] = deque(maxlen=MAX_PER_SECOND)
        self._updates_received: deque[float] = deque(maxlen=MAX_PER_SECOND)
        self._goaways_received = 0
        self._last_probe_id = 0
        self._append(HELLO, 0, frames.pack_hello(hello))

    # -- sending ------------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Bytes that wait for :meth:`data_to_send`."""
        return self._gathered_bytes + len(self._outgoing) - self._headroom

    @property
    def bytes_received(self) -> int:
        """Bytes of all streams received so far."""
        return self._receive_window.received

    @property
    def bytes_sent(self) -> int:
        """Bytes of all streams sent so far."""
        return self.send_window.sent

    @property
    def held_part(self) -> float:
        """The part of the session's window that was received and not consumed: 1 leaves no room for anything."""
        return self._receive_window.unconsumed / self._receive_window.size

    def data_to_send(self) -> bytearray | None:
        """Return the next message to send, with the headroom in front, or None; it belongs to the caller."""
        if self._gathered:
            message = self._gathered.popleft()
            self._gathered_bytes -= len(message) - self._headroom
            return message
        if len(self._outgoing) == self._headroom:
            return None
        message, self._outgoing = self._outgoing, bytearray(self._headroom)
        return message

    def open_stream(self, target: Target, source: str) -> Stream:
        """Open a stream to *target* for the in-cluster peer at *source*; data may follow at once (section 4.2).

        Raises StreamRefused where the session is not open, is draining or holds all the streams the client takes, and
        ValueError for a target that has no place in the frame.
        """
        if self.role is not Role.GATEWAY:
            raise ValueError("only the gateway opens streams")
        peer = self.peer
        if self.state is not State.OPEN or peer is None:
            raise StreamRefused(ErrorCode.LOST, "the session is not open")
        if self.draining or self._last_stream_id + 2 > frames.MAX_STREAM_ID:
            raise StreamRefused(ErrorCode.SHUTDOWN, "the session takes no new streams")
        if len(self.streams) >= min(peer.limits.max_streams, self._limits.max_streams):
            raise StreamRefused(ErrorCode.LIMIT, f"the session holds {len(self.streams)} streams, its limit")
        payload = frames.pack_open(target, source)
        self._last_stream_id += 2
        self._append(OPEN, self._last_stream_id, payload)
        return self._add_stream(self._last_stream_id, target, source, peer.limits)

    def accept_stream(self, stream: Stream) -> None:
        """Say that the upstream was reached (section 4.3)."""
        if not stream.closed:
            stream.accepted = True
            self._append(ACCEPT, stream.stream_id)

    def reject_stream(self, stream: Stream, code: ErrorCode, reason: str) -> None:
        """Say why the upstream could not be reached; the stream is gone (section 4.3)."""
        if not stream.closed:
            self._append(REJECT, stream.stream_id, frames.pack_reason(code, reason))
            self._remove_stream(stream)
            self._discard(stream)

    def reset_stream(self, stream: Stream, code: ErrorCode, reason: str = "") -> None:
        """Give a stream up, both ways; it is gone (section 4.5)."""
        if not stream.closed:
            self._append(RESET, stream.stream_id, frames.pack_reason(code, reason))
            self._remove_stream(stream)
        self._discard(stream)

    def spend(self, stream: Stream, size: int) -> None:
        """Account for *size* bytes of *stream* that the caller sends beside us, behind what waits here."""
        stream.send.spend(size)
        self.send_window.spend(size)

    def send_data(self, stream: Stream, data: Buffer) -> int:
        """Put *data*, at most MAX_DATA bytes and within the credit, behind what waits; returns :attr:`pending`."""
        size = len(data)
        stream.send.spend(size)
        self.send_window.spend(size)
        if len(self._outgoing) + HEADER_SIZE + size > self._message_limit:
            self._begin_message()
        self._outgoing += _pack_header(DATA << 24 | size, stream.stream_id)
        self._outgoing += data
        return self._gathered_bytes + len(self._outgoing) - self._headroom

    def send_fin(self, stream: Stream) -> None:
        """Say that this was our last byte; the stream is gone when both sides have said so (section 4.5)."""
        if not stream.closed and not stream.fin_sent:
            stream.fin_sent = True
            self._append(FIN, stream.stream_id)
            if stream.fin_received:
                self._remove_stream(stream)

    def consume(self, stream: Stream, size: int, now: float) -> bool:
        """Say that *size* received bytes of *stream* have left for where they go (section 6).

        Returns whether it was time to give credit back: then there is something to send.
        """
        if stream.discarded:
            return False  # its bytes went back to the session already
        grant = stream.receive.consume(size, now, self.round_trip)
        session_grant = self._receive_window.consume(size, now, None)
        if not (grant or session_grant):
            return False
        if grant and not stream.fin_received:
            self._append(WINDOW, stream.stream_id, frames.pack_credit(grant))
        if session_grant:
            self._append(WINDOW, 0, frames.pack_credit(session_grant))
        return True

    def send_ping(self, now: float) -> None:
        """Measure the round trip; not while MAX_PINGS_UNANSWERED are under way (section 4.10)."""
        if len(self._pings) < MAX_PINGS_UNANSWERED:
            self._last_ping_id += 1
            self._pings[self._last_ping_id] = now
            self._append(PING, 0, _PING.pack(self._last_ping_id))

    def send_probe(self, target: Target) -> int:
        """Ask whether *target* answers; return the id that the report will carry (section 4.8)."""
        self._last_probe_id = (self._last_probe_id + 1) & 0xFFFF_FFFF
        self._append(PROBE, 0, frames.pack_probe(self._last_probe_id, target))
        return self._last_probe_id

    def send_report(self, probe_id: int, code: ErrorCode, elapsed: float, reason: str = "") -> None:
        """Answer a probe; *elapsed* is how long the dial took, in seconds (section 4.8)."""
        self._append(REPORT, 0, frames.pack_report(probe_id, code, int(elapsed * 1e6), reason))

    def send_update(self, exposure: Exposure) -> None:
        """Tell the client what the tunnel exposes from now on (section 4.7)."""
        self._append(UPDATE, 0, frames.pack_exposure(exposure))

    def send_goaway(self, code: ErrorCode, deadline: float, reason: str = "") -> None:
        """Announce the end: no new streams, and *deadline* seconds for those that are open (section 4.9)."""
        self.draining = True
        self._append(GOAWAY, 0, frames.pack_goaway(code, int(deadline * 1000), reason))

    def close(self) -> list[Stream]:
        """End the session at once, with nothing more sent; return the streams that this ends."""
        self.state = State.CLOSED
        streams = list(self.streams.values())
        for stream in streams:
            stream.closed = stream.discarded = True
        self.streams.clear()
        return streams

    # -- receiving ----------------------------------------------------------------------------------------------------

    def receive_message(self, message: memoryview, now: float) -> Iterator[events.Event]:
        """Take one message of whole frames and yield what each means, in order; *now* in seconds.

        A frame is looked at when the event of the one before has been handled, so that what a handler does and what
        the peer sent meet in one order. Go through all of it. A message that breaks the protocol ends in a
        SessionFailed event, and whatever follows is ignored; so is the rest once the session is closed.
        """
        position, end = 0, len(message)
        try:
            while position < end and self.state is not _CLOSED:
                # "A message holds whole frames."
                if position + HEADER_SIZE > end:
                    _refuse(ErrorCode.PROTOCOL, "a message ends inside a frame header")
                word, stream_id = _unpack_header(message, position)
                kind, length = word >> 24, word & 0xFF_FFFF
                start = position + HEADER_SIZE
                position = start + length
                if length > MAX_DATA:
                    _refuse(ErrorCode.FRAME_TOO_LARGE, f"a frame of {length} bytes, at most {MAX_DATA} allowed")
                if position > end:
                    _refuse(ErrorCode.PROTOCOL, "a message ends inside a frame")
                event: events.Event | None
                if kind == DATA and self.peer is not None:
                    event = self._receive_data(stream_id, message[start:position], now)
                else:
                    event = self._receive_control(kind, stream_id, message[start:position], now)
                if event is not None:
                    yield event
        except ProtocolError as error:
            self.send_goaway(error.code, 0, error.reason)
            self.state = State.CLOSED
            yield events.SessionFailed(error.code, error.reason)

    def _receive_data(self, stream_id: int, data: memoryview, now: float) -> events.DataReceived | None:
        size = len(data)
        if not size:
            raise ProtocolError(ErrorCode.PROTOCOL, "DATA without bytes")
        self._receive_window.receive(size)
        stream = self.streams.get(stream_id)
        if stream is None:
            # "Frames of a stream that is gone are ignored"; the session's credit for them goes back at once.
            self._check_known(stream_id, DATA)
            self._consume_session(size, now)
            return None
        if stream.fin_received:
            raise ProtocolError(ErrorCode.PROTOCOL, f"DATA after FIN on stream {stream_id}")
        stream.receive.receive(size)
        return DataReceived(stream, data)

    def _receive_control(self, kind: int, stream_id: int, payload: memoryview, now: float) -> events.Event | None:
        if self.peer is None:
            # "HELLO is the first frame of each side, and comes once."
            if kind != HELLO or stream_id != 0:
                raise ProtocolError(ErrorCode.HELLO, f"a frame of type {kind} on stream {stream_id} before HELLO")
            return self._receive_hello(payload)
        if kind == OPEN:
            return self._receive_open(stream_id, payload)
        if kind in (ACCEPT, REJECT, WINDOW, FIN, RESET):
            return self._receive_of_stream(kind, stream_id, payload)
        if stream_id != 0:
            raise ProtocolError(ErrorCode.PROTOCOL, f"a frame of type {kind} on stream {stream_id}")
        return self._receive_of_session(kind, payload, now)

    def _receive_hello(self, payload: memoryview) -> events.Event:
        self.peer = frames.unpack_hello(payload)
        self.send_window.grant(self.peer.limits.session_window)
        self.state = State.OPEN
        return events.SessionOpened(self.peer)

    def _receive_open(self, stream_id: int, payload: memoryview) -> events.Event | None:
        # "Only the gateway opens streams; their ids are odd and rise."
        if self.role is not Role.CLIENT:
            raise ProtocolError(ErrorCode.PROTOCOL, "OPEN from a client")
        if stream_id % 2 == 0 or stream_id <= self._last_stream_id or stream_id > frames.MAX_STREAM_ID:
            raise ProtocolError(ErrorCode.PROTOCOL, f"OPEN with stream id {stream_id} after {self._last_stream_id}")
        target, source = frames.unpack_open(payload)
        self._last_stream_id = stream_id
        if self.draining or self.peer is None:
            self._append(REJECT, stream_id, frames.pack_reason(ErrorCode.SHUTDOWN, "the client is stopping"))
        elif len(self.streams) >= self._limits.max_streams:
            self._append(REJECT, stream_id, frames.pack_reason(ErrorCode.LIMIT, "the client holds all its streams"))
        else:
            return events.StreamOpened(self._add_stream(stream_id, target, source, self.peer.limits))
        return None

    def _receive_of_stream(self, kind: int, stream_id: int, payload: memoryview) -> events.Event | None:
        if kind == WINDOW and stream_id == 0:
            self.send_window.grant(frames.unpack_credit(payload))
            return events.CreditReceived(None)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id, kind)
            return None
        if kind == WINDOW:
            stream.send.grant(frames.unpack_credit(payload))
            return events.CreditReceived(stream)
        if kind == FIN:
            return self._receive_fin(stream, payload)
        if kind == RESET:
            code, reason = frames.unpack_reason(payload)
            self._remove_stream(stream)
            self._discard(stream)
            return events.StreamReset(stream, code, reason)
        return self._receive_answer(kind, stream, payload)

    def _receive_fin(self, stream: Stream, payload: memoryview) -> events.Event:
        if stream.fin_received or payload:
            raise ProtocolError(ErrorCode.PROTOCOL, f"FIN twice or with a payload on stream {stream.stream_id}")
        stream.fin_received = True
        stream.receive.stop_growing()
        if stream.fin_sent:
            self._remove_stream(stream)
        return events.FinReceived(stream)

    def _receive_answer(self, kind: int, stream: Stream, payload: memoryview) -> events.Event:
        # "ACCEPT or REJECT answers an OPEN, once."
        if self.role is not Role.GATEWAY or stream.accepted:
            raise ProtocolError(ErrorCode.PROTOCOL, f"an answer without a question on stream {stream.stream_id}")
        if kind == ACCEPT:
            if payload:
                raise ProtocolError(ErrorCode.PROTOCOL, "ACCEPT with a payload")
            stream.accepted = True
            return events.StreamAccepted(stream)
        code, reason = frames.unpack_reason(payload)
        self._remove_stream(stream)
        self._discard(stream)
        return events.StreamRejected(stream, code, reason)

    def _receive_of_session(self, kind: int, payload: memoryview, now: float) -> events.Event | None:
        if kind == PING:
            self._receive_ping(payload, now)
            return None
        if kind == PONG:
            return self._receive_pong(payload, now)
        if kind == GOAWAY:
            code, deadline_ms, reason = frames.unpack_goaway(payload)
            # "More than 8 GOAWAYs end the session": each is told to everybody.
            self._goaways_received += 1
            if self._goaways_received > MAX_GOAWAYS:
                raise ProtocolError(ErrorCode.LIMIT, f"more than {MAX_GOAWAYS} GOAWAYs")
            self.draining = True
            return events.GoawayReceived(code, deadline_ms / 1000, reason)
        if kind == PROBE and self.role is Role.CLIENT:
            return events.ProbeReceived(*frames.unpack_probe(payload))
        if kind == UPDATE and self.role is Role.CLIENT:
            self._limit_rate(self._updates_received, now, "UPDATEs")
            return events.ExposureChanged(frames.unpack_exposure(payload))
        if kind == REPORT and self.role is Role.GATEWAY:
            probe_id, code, elapsed_us, reason = frames.unpack_report(payload)
            return events.ReportReceived(probe_id, code, elapsed_us / 1e6, reason)
        if kind == HELLO:
            raise ProtocolError(ErrorCode.PROTOCOL, "HELLO twice")
        raise ProtocolError(ErrorCode.PROTOCOL, f"a frame of type {kind}, unknown or not for the {self.role.value}")

    def _receive_ping(self, payload: memoryview, now: float) -> None:
        if len(payload) != _PING.size:
            raise ProtocolError(ErrorCode.PROTOCOL, f"PING of {len(payload)} bytes, 8 expected")
        # "More than 20 PINGs within a second end the session": each costs an answer.
        self._limit_rate(self._pings_received, now, "PINGs")
        self._append(PONG, 0, bytes(payload))

    def _limit_rate(self, received: deque[float], now: float, name: str) -> None:
        if len(received) == MAX_PER_SECOND and now - received[0] < 1.0:
            raise ProtocolError(ErrorCode.LIMIT, f"more than {MAX_PER_SECOND} {name} within a second")
        received.append(now)

    def _receive_pong(self, payload: memoryview, now: float) -> events.Event:
        if len(payload) != _PING.size:
            raise ProtocolError(ErrorCode.PROTOCOL, f"PONG of {len(payload)} bytes, 8 expected")
        sent_at = self._pings.pop(_PING.unpack(payload)[0], None)
        if sent_at is None:
            raise ProtocolError(ErrorCode.PROTOCOL, "PONG without a PING")
        self._samples.append(max(now - sent_at, 0.0))
        self.round_trip = min(self._samples)
        return events.PongReceived(now - sent_at)

    # -- both ---------------------------------------------------------------------------------------------------------

    def _append(self, kind: int, stream_id: int, payload: bytes = b"") -> None:
        if self.state is not _CLOSED:  # "After GOAWAY that ends a session nothing follows."
            # "A message is at most 262,144 bytes": where the frame has no room another message begins (section 2).
            if len(self._outgoing) + HEADER_SIZE + len(payload) > self._message_limit:
                self._begin_message()
            self._outgoing += pack_header(kind, len(payload), stream_id)
            self._outgoing += payload

    def _begin_message(self) -> None:
        self._gathered.append(self._outgoing)
        self._gathered_bytes += len(self._outgoing) - self._headroom
        self._outgoing = bytearray(self._headroom)

    def _add_stream(self, stream_id: int, target: Target, source: str, peer: Limits) -> Stream:
        window = ReceiveWindow(self._limits.stream_window, ceiling=MAX_STREAM_WINDOW, budget=self._budget)
        stream = Stream(stream_id, target, source, SendWindow(peer.stream_window), window)
        self.streams[stream_id] = stream
        return stream

    def _remove_stream(self, stream: Stream) -> None:
        """Forget a stream. What it holds stays on the session's account until it is consumed or discarded."""
        del self.streams[stream.stream_id]
        stream.closed = True
        stream.receive.stop_growing()

    def _discard(self, stream: Stream) -> None:
        """Give back to the session what a stream held and nobody will consume any more."""
        if not stream.discarded:
            stream.discarded = True
            self._consume_session(stream.receive.unconsumed, 0.0)

    def _consume_session(self, size: int, now: float) -> None:
        grant = self._receive_window.consume(size, now, None)
        if grant:
            self._append(WINDOW, 0, frames.pack_credit(grant))

    def _check_known(self, stream_id: int, kind: int) -> None:
        """Let frames of a stream pass that is gone; "a frame of a stream that never was ends the session"."""
        if stream_id % 2 == 0 or stream_id > self._last_stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL, f"a frame of type {kind} on stream {stream_id}, never opened")


def _refuse(code: ErrorCode, reason: str) -> NoReturn:
    raise ProtocolError(code, reason)
