"""Why a stream or a session ended: the codes of the wire protocol (SPEC.md section 8)."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """A code carried by REJECT, RESET, REPORT and GOAWAY, and by the WebSocket close (4000 + code)."""

    OK = 0
    PROTOCOL = 1
    FRAME_TOO_LARGE = 2
    WINDOW_OVERRUN = 3
    LIMIT = 4
    TIMEOUT = 5
    INTERNAL = 6
    CANCELLED = 7
    HELLO = 8
    VERSION = 9

    UNKNOWN_UPSTREAM = 16
    UPSTREAM_REFUSED = 17
    UPSTREAM_UNREACHABLE = 18
    UPSTREAM_TIMEOUT = 19
    UPSTREAM_NAME = 20
    UPSTREAM_TLS = 21

    SHUTDOWN = 32
    REVOKED = 33
    DISABLED = 34
    REPLACED = 35
    LOST = 36

    @classmethod
    def from_wire(cls, value: int) -> ErrorCode:
        """Return the code for *value*; a code this version does not know reads as INTERNAL (section 8)."""
        try:
            return cls(value)
        except ValueError:
            return cls.INTERNAL

    @classmethod
    def from_close_code(cls, value: int) -> ErrorCode:
        """Return the code that a WebSocket close code carries; one that carries none reads as LOST (section 8)."""
        if value == 1000:
            return cls.OK
        return cls.from_wire(value - 4000) if 4000 < value < 4400 else cls.LOST

    @property
    def close_code(self) -> int:
        """The WebSocket close code that carries this code (section 8)."""
        return 1000 if self is ErrorCode.OK else 4000 + self


class ProtocolError(Exception):
    """The peer broke the protocol: the session ends with *code*, and *reason* goes into one log line."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


class StreamRefused(Exception):
    """A stream can't be opened on this session now; *code* says why."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason
