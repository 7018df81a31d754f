"""The care of streams: what is looked at every few seconds, because no event tells of it.

An OPEN that nobody answers, a connection that breaks while nobody watches it, and streams that stall with so much of
the session's window that nothing is left for the others.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic as clock
from typing import TYPE_CHECKING, Final

from .protocol import ErrorCode, Role

if TYPE_CHECKING:
    from .endpoint import Endpoint

logger = logging.getLogger(__name__)

PRESSURE: Final = 0.75  # the part of the session's window that, held unconsumed, makes stalled streams give way


class StreamCare:
    """What is looked at every few seconds while an endpoint has streams: answers, broken connections, stalls."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._timer: asyncio.TimerHandle | None = None
        self._unanswered: dict[int, float] = {}  # OPENs without an answer, and since when
        self._stalled: dict[int, tuple[int, float]] = {}  # bytes consumed, and since when no more

    def begin(self) -> None:
        """Look at the streams from now on, until there are none."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._endpoint.timing.check, self._check)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = None
        now = clock()
        self._check_answers(now)
        self._check_stalls(now)
        for handler in self._endpoint.handlers():
            handler.check_connection()
        if self._endpoint.streams:
            self.begin()

    def _check_answers(self, now: float) -> None:
        """Give up what the client has not answered in time (SPEC.md section 4.3)."""
        endpoint = self._endpoint
        if endpoint.role is not Role.GATEWAY:
            return
        waiting = [stream for stream in endpoint.session.streams.values() if not stream.accepted]
        self._unanswered = {stream.stream_id: self._unanswered.get(stream.stream_id, now) for stream in waiting}
        for stream in waiting:
            if now - self._unanswered[stream.stream_id] >= endpoint.timing.accept:
                endpoint.give_up(stream, ErrorCode.TIMEOUT, "the client has not said whether it reached the upstream")

    def _check_stalls(self, now: float) -> None:
        """Let streams give way whose readers take nothing, where their bytes leave no room for the others' (6.2)."""
        session = self._endpoint.session
        if session.held_part < PRESSURE:
            self._stalled.clear()
            return
        seen: dict[int, tuple[int, float]] = {}
        for stream in session.streams.values():
            if stream.receive.unconsumed:
                consumed, since = self._stalled.get(stream.stream_id, (-1, now))
                seen[stream.stream_id] = (
                    (consumed, since) if consumed == stream.receive.consumed else (stream.receive.consumed, now)
                )
        self._stalled = seen
        for stream_id, (_, since) in sorted(seen.items(), key=lambda item: item[1][1]):
            if now - since < self._endpoint.timing.stall or session.held_part < PRESSURE / 2:
                return
            reason = f"nothing of it was read for {now - since:.0f} s, and others need the room"
            logger.warning("a stream to %s is reset: %s", session.streams[stream_id].target, reason)
            self._endpoint.give_up(session.streams[stream_id], ErrorCode.LIMIT, reason)
