"""Windows: receiver-driven credit for one stream and for the session above it (SPEC.md section 6).

A window bounds what the peer may send and we must be ready to hold. Whoever consumes bytes gives the credit back; the
window of a stream that keeps its sender waiting for credit grows up to the bandwidth-delay product and no further.
"""

from __future__ import annotations

from typing import Final

from .errors import ErrorCode, ProtocolError
from .frames import MAX_WINDOW

MAX_STREAM_WINDOW: Final = 16 * 1024 * 1024
GROWTH_ROUND_TRIPS: Final = 2.0
LEAST_GRANT: Final = 65536  # bytes; less would make the sender send crumbs


class SendWindow:
    """The credit a peer gave us, in bytes; we may send *credit* more."""

    __slots__ = ("credit", "granted")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.granted = credit  # all that was ever given

    @property
    def sent(self) -> int:
        """Bytes sent so far."""
        return self.granted - self.credit

    def spend(self, size: int) -> None:
        """Take *size* bytes off the credit; asking for more than there is a fault of the caller."""
        if size > self.credit:
            raise ValueError(f"{size} bytes to send, but a credit of {self.credit}")
        self.credit -= size

    def grant(self, increment: int) -> None:
        """Add what a WINDOW frame grants ("a credit that goes over 2^31-1 ends the session")."""
        self.credit += increment
        self.granted += increment
        if self.credit > MAX_WINDOW:
            raise ProtocolError(ErrorCode.WINDOW_OVERRUN, f"a credit of {self.credit} bytes, over 2^31-1")


class GrowthBudget:
    """How many bytes the streams of one session may grow by, all together.

    Grown windows get at most half of the session's window, so that streams which stall with a full window leave room
    for the others.
    """

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> int:
        """Take up to *size* bytes and return how many were taken."""
        taken = min(size, self.left)
        self.left -= taken
        return taken

    def give_back(self, size: int) -> None:
        self.left += size


class ReceiveWindow:
    """What the peer may still send, and what of it we have not consumed; sizes in bytes, times in seconds.

    *ceiling* is what the window may grow to and *budget* where the growth comes from; without a budget it stays as it
    is.
    """

    __slots__ = ("_budget", "_ceiling", "_consumed", "_initial", "_paced", "_paced_at", "credit", "granted", "size")

    def __init__(self, size: int, *, ceiling: int = 0, budget: GrowthBudget | None = None) -> None:
        self.size = size
        self.credit = size
        self.granted = size  # all that was ever given
        self._initial = size
        self._ceiling = ceiling
        self._budget = budget
        self._consumed = 0  # consumed and not yet granted again
        self._paced = 0  # consumed since the pace was looked at last
        self._paced_at = 0.0

    @property
    def received(self) -> int:
        """Bytes received so far."""
        return self.granted - self.credit

    @property
    def consumed(self) -> int:
        """Bytes consumed so far."""
        return self.received - self.unconsumed

    @property
    def unconsumed(self) -> int:
        """Bytes received that the application still holds."""
        return self.size - self.credit - self._consumed

    def receive(self, size: int) -> None:
        """Account *size* bytes from the peer; more than it had credit for ends the session (section 6)."""
        if size > self.credit:
            raise ProtocolError(ErrorCode.WINDOW_OVERRUN, f"{size} bytes received with a credit of {self.credit}")
        self.credit -= size

    def consume(self, size: int, now: float, round_trip: float | None) -> int:
        """Account *size* bytes as consumed and return the credit to grant now (0: it can wait).

        "Credit is granted when as much has been consumed as the sender still has, but no less than a quarter of the
        window or 65,536 bytes at a time." With nothing held that is half the window, and what stalled streams hold
        makes nobody else wait. Where half a window was consumed in less than two round trips the sender is waiting
        for us, not for its own source: the window doubles.
        """
        self._consumed += size
        self._paced += size
        grant = self._consumed
        if grant < self.credit or grant < min(LEAST_GRANT, self.size // 4):
            return 0
        if self._paced * 2 >= self.size:
            hurried = round_trip is not None and now - self._paced_at < GROWTH_ROUND_TRIPS * round_trip
            if hurried and self._budget is not None and self.size < self._ceiling:
                growth = self._budget.take(min(self.size, self._ceiling - self.size))
                self.size += growth
                grant += growth
            self._paced_at = now
            self._paced = 0
        self._consumed = 0
        self.credit += grant
        self.granted += grant
        return grant

    def stop_growing(self) -> None:
        """Return the growth to the budget: no more credit will be granted."""
        if self._budget is not None:
            self._budget.give_back(self.size - self._initial)
            self._budget = None
