"""The interface between an endpoint and whatever carries its messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Protocol

from ..protocol import frames

MAX_MESSAGE: Final = frames.MAX_MESSAGE
HIGH_WATER: Final = 128 * 1024  # bytes unsent in user space at which sending pauses
LOW_WATER: Final = 64 * 1024
GATEWAY_HEADER: Final = "Moorline-Gateway"  # of the answer to the upgrade: which gateway was reached


class MessageReceiver(Protocol):
    """What a transport calls. Every call comes from the event loop's thread, and none may raise."""

    def transport_ready(self, transport: MessageTransport) -> None:
        """The WebSocket is open: messages may be sent."""

    def message_received(self, message: memoryview) -> None:
        """A whole message came; the memory is the transport's again when this returns."""

    def sending_paused(self) -> None:
        """More than HIGH_WATER bytes wait: stop reading what would be sent."""

    def sending_resumed(self) -> None:
        """Fewer than LOW_WATER bytes wait."""

    def transport_lost(self, code: int, reason: str) -> None:
        """The WebSocket is gone, with its close code (1006 where there was none). Nothing follows."""


class MessageTransport(ABC):
    """One open WebSocket.

    ``headroom`` is how many bytes a message needs free in front of it: the transport writes its own header there, so
    a payload leaves from where it was read to, joined with nothing.
    """

    headroom: int
    kind: str  # "native" or "asgi", for people
    __slots__ = ()

    @abstractmethod
    def send_message(self, buffer: bytearray) -> None:
        """Send ``buffer[headroom:]`` as one binary message.

        The contents may be overwritten (masking); the buffer is the caller's again when this returns.
        """

    @abstractmethod
    def unsent_bytes(self) -> int:
        """Return how many bytes wait in user space to be sent."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake with *code*; the connection is cut where the peer does not answer in 2 s.

        While bytes that were sent before still leave, there is more time, 30 s at most.
        """

    @abstractmethod
    def abort(self) -> None:
        """Cut the connection at once; for a path that is dead or a peer that floods."""
