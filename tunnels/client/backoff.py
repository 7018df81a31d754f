"""Backoff: how long to wait before the next attempt to reach the gateway."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from typing import Final

FIRST: Final = 0.5  # seconds
LONGEST: Final = 30.0
STEADY: Final = 30.0  # a connection that lasted as long ends the backing off


class Pace(Enum):
    """How soon an attempt makes sense again, after what ended the last one; the range in seconds, jittered."""

    AT_ONCE = (0.0, 0.5)  # and as BACKOFF where that did not lead to a connection that lasted
    SOON = (0.2, 1.0)  # nothing is wrong; try for a better one
    BACKOFF = (0.0, 0.0)  # grows with each attempt
    MEDIUM = (8.0, 15.0)  # something has to end elsewhere first
    SLOW = (30.0, 60.0)  # a person has to do something first


class Backoff:
    """Jittered exponential backoff, so that the clients of a gateway do not all come back in one moment.

    *uniform* is ``random.uniform``, or what a test puts in its place.
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._attempts = 0

    def note_connection(self, lasted: float) -> None:
        """Start anew after a connection that lasted; one that broke within STEADY seconds changes nothing."""
        if lasted >= STEADY:
            self._attempts = 0

    def next_delay(self, pace: Pace, at_least: float = 0.0) -> float:
        """Return the seconds to wait.

        *at_least* is what the gateway asked for (Retry-After); it is kept and jittered upwards.
        """
        if pace is Pace.BACKOFF or (pace is Pace.AT_ONCE and self._attempts):
            ceiling = min(FIRST * 2**self._attempts, LONGEST)
            delay = self._uniform(ceiling / 2, ceiling)
        else:
            delay = self._uniform(*pace.value)
        if pace in (Pace.BACKOFF, Pace.AT_ONCE):
            self._attempts = min(self._attempts + 1, 16)
        return max(delay, at_least * self._uniform(1.0, 1.25))
