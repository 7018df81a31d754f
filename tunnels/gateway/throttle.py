"""Slow down whoever keeps trying wrong tokens, per address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import Final

MAX_ADDRESSES: Final = 10_000


class Throttle:
    """Count failures per address; an address with too many must wait until the window has passed.

    Arguments: *failures* allowed within *window* seconds; *clock* in seconds. It remembers the MAX_ADDRESSES latest
    addresses, so that its memory does not grow with the number of attackers.
    """

    def __init__(self, failures: int = 10, window: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._failures = failures
        self._window = window
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> failures, since

    def __len__(self) -> int:
        return len(self._counts)

    def wait_for(self, address: str) -> int:
        """Return how many seconds *address* must wait before its next try; 0: it may try now."""
        count, since = self._counts.get(address, (0, 0.0))
        left = since + self._window - self._clock()
        return ceil(left) if count >= self._failures and left > 0 else 0

    def note_failure(self, address: str) -> None:
        """Count one wrong token from *address*."""
        now = self._clock()
        count, since = self._counts.pop(address, (0, now))
        if now - since >= self._window:
            count, since = 0, now
        self._counts[address] = (count + 1, since)
        if len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)

    def note_success(self, address: str) -> None:
        """Forget the failures of *address*: somebody there holds a token."""
        self._counts.pop(address, None)
