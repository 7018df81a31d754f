"""The wire protocol ``moorline.v1`` (SPEC.md), sans-I/O: no sockets, no asyncio and no clock of its own."""

from .errors import ErrorCode, ProtocolError, StreamRefused
from .frames import MAX_DATA, Exposure, Hello, Limits, Target
from .scheduler import Ring
from .session import Role, Session, State
from .stream import Stream

SUBPROTOCOL = "moorline.v1"

__all__ = [
    "MAX_DATA",
    "SUBPROTOCOL",
    "ErrorCode",
    "Exposure",
    "Hello",
    "Limits",
    "ProtocolError",
    "Ring",
    "Role",
    "Session",
    "State",
    "Stream",
    "StreamRefused",
    "Target",
]
