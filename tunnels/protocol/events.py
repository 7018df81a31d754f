"""What a session tells its owner about the bytes it was given; one class per thing that can happen.

Events are plain and unfrozen: they are made for every frame, and a frozen dataclass costs three times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ErrorCode
from .frames import Exposure, Hello, Target

if TYPE_CHECKING:
    from .stream import Stream


class Event:
    """Anything that :meth:`Session.receive_message` returns."""

    __slots__ = ()


@dataclass(slots=True)
class SessionOpened(Event):
    """The peer's HELLO came: streams may be opened."""

    hello: Hello


@dataclass(slots=True)
class StreamOpened(Event):
    """The gateway asks for a stream to ``stream.target``: dial, then accept or reject (client)."""

    stream: Stream


@dataclass(slots=True)
class StreamAccepted(Event):
    """The upstream of this stream was reached (gateway)."""

    stream: Stream


@dataclass(slots=True)
class StreamRejected(Event):
    """The client would not or could not reach the upstream; the stream is gone (gateway)."""

    stream: Stream
    code: ErrorCode
    reason: str


@dataclass(slots=True)
class DataReceived(Event):
    """Bytes of a stream; *data* is good until the next call of ``receive_message`` and must be consumed."""

    stream: Stream
    data: memoryview


@dataclass(slots=True)
class FinReceived(Event):
    """The peer has sent its last byte of this stream."""

    stream: Stream


@dataclass(slots=True)
class StreamReset(Event):
    """The peer gave the stream up; it is gone."""

    stream: Stream
    code: ErrorCode
    reason: str


@dataclass(slots=True)
class CreditReceived(Event):
    """More may be sent: on *stream*, or with None on the session."""

    stream: Stream | None


@dataclass(slots=True)
class PongReceived(Event):
    """The answer to a PING; *round_trip* in seconds."""

    round_trip: float


@dataclass(slots=True)
class ProbeReceived(Event):
    """The gateway asks whether *target* answers: dial it, then report (client)."""

    probe_id: int
    target: Target


@dataclass(slots=True)
class ReportReceived(Event):
    """The client's answer to a PROBE; *elapsed* in seconds (gateway)."""

    probe_id: int
    code: ErrorCode
    elapsed: float
    reason: str


@dataclass(slots=True)
class ExposureChanged(Event):
    """What the tunnel exposes has changed (client)."""

    exposure: Exposure


@dataclass(slots=True)
class GoawayReceived(Event):
    """No new streams; the peer ends the session after *deadline* seconds at the latest."""

    code: ErrorCode
    deadline: float
    reason: str


@dataclass(slots=True)
class SessionFailed(Event):
    """The peer broke the protocol. GOAWAY with the code waits to be sent; then close the transport."""

    code: ErrorCode
    reason: str
