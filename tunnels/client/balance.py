"""Balancing: which of the upstreams of one route is tried first, and which is left alone for a while."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from .upstreams import Upstream

FIRST_REST: Final = 2.0  # seconds an upstream is left alone after its first failure
LONGEST_REST: Final = 60.0


class Health:
    """How the latest dials of one upstream went; times in seconds of any one clock."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.failures = 0  # in a row
        self.rests_until = 0.0
        self.said_at = -math.inf  # when a line in the log last spoke of its failures
        self.unsaid = 0  # failures since

    def note_success(self) -> None:
        self.failures = 0
        self.rests_until = 0.0

    def note_failure(self, now: float) -> None:
        """Leave the upstream alone for a while, twice as long with each failure.

        Dials that were under way together fail together: they count as one.
        """
        if now >= self.rests_until:
            self.failures += 1
            self.rests_until = now + min(FIRST_REST * 2 ** min(self.failures - 1, 16), LONGEST_REST)


class Balance:
    """The upstreams of one route in turn: round robin over those that answer.

    Arguments: the *upstreams*, at least one; the *clock*, in seconds.
    """

    def __init__(self, upstreams: Sequence[Upstream], clock: Callable[[], float]) -> None:
        self.members = [Health(upstream) for upstream in upstreams]
        self._clock = clock
        self._turn = 0

    def order(self) -> list[Health]:
        """Return every upstream, in the order to try them for one connection.

        First come those that answer, from the one whose turn it is; then those that are left alone, the longest
        rested first: with nobody else they are tried all the same.
        """
        now = self._clock()
        turn, self._turn = self._turn, (self._turn + 1) % len(self.members)
        rotated = self.members[turn:] + self.members[:turn]
        answering = [health for health in rotated if health.rests_until <= now]
        resting = [health for health in rotated if health.rests_until > now]
        return answering + sorted(resting, key=lambda health: health.rests_until)
