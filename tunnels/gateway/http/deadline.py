"""A deadline that moves with every request and costs no timer for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """Calls *passed* once the time set last is over. The timer that fires too early looks again."""

    __slots__ = ("_at", "_loop", "_passed", "_timer")

    def __init__(self, passed: Callable[[], None]) -> None:
        self._passed = passed
        self._loop = asyncio.get_running_loop()
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Wait *seconds* from now, whatever was set before."""
        at = self._at = self._loop.time() + seconds
        timer = self._timer
        if timer is None or timer.when() > at:
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(at, self._check)

    def clear(self) -> None:
        """Wait for nothing until the next :meth:`set`."""
        self._at = math.inf

    def stop(self) -> None:
        """Let go of the timer; for the end."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = None
        if self._loop.time() >= self._at:
            self._at = math.inf
            self._passed()
        elif self._at < math.inf:
            self._timer = self._loop.call_at(self._at, self._check)
