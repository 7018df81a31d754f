"""What owners of streams and sessions are told, and when an endpoint acts by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .protocol import ErrorCode, Exposure, Hello, Stream, Target


@dataclass(frozen=True, slots=True)
class Timing:
    """When an endpoint acts by itself; seconds.

    ``idle`` without a byte from the peer brings a PING, ``answer`` more without one the end: a dead path is noticed
    within their sum. ``idle`` is well below the 60 s after which proxies cut. ``hello`` bounds the wait for HELLO,
    ``accept`` that for the answer to an OPEN. Every ``check`` the streams are looked after; where the session's window
    is nearly used up, those give way whose reader has taken nothing for ``stall``.
    """

    idle: float = 15.0
    answer: float = 10.0
    hello: float = 10.0
    accept: float = 60.0
    check: float = 5.0
    stall: float = 20.0


class StreamHandler(Protocol):
    """What the owner of a stream is told. After a rejection, a reset or FIN both ways nothing follows."""

    def stream_accepted(self) -> None: ...
    def stream_rejected(self, code: ErrorCode, reason: str) -> None: ...
    def data_received(self, data: memoryview) -> None: ...
    def fin_received(self) -> None: ...
    def stream_reset(self, code: ErrorCode, reason: str) -> None: ...
    def resume_sending(self) -> None: ...
    def session_draining(self) -> None:
        """The session ends soon: a stream that only waits for more work ends now."""

    def check_connection(self) -> None:
        """Called every few seconds: give up where the connection has broken unnoticed."""


class EndpointHandler(Protocol):
    """What the owner of a session is told."""

    def session_opened(self, hello: Hello) -> None: ...
    def stream_opened(self, stream: Stream) -> StreamHandler: ...
    def probe_requested(self, probe_id: int, target: Target) -> None: ...
    def exposure_changed(self, exposure: Exposure) -> None: ...
    def session_draining(self, code: ErrorCode, deadline: float, reason: str) -> None: ...
    def session_closed(self, code: ErrorCode, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether an upstream answered; *elapsed* is the client's dial, in seconds."""

    code: ErrorCode
    elapsed: float
    reason: str
