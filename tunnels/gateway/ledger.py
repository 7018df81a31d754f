"""Tell the portal which sessions opened and closed, each in order, without a session ever waiting for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from .directory import Directory, SessionReport, Usage

logger = logging.getLogger(__name__)

CALL_TIMEOUT: Final = 10.0  # seconds
TRIES: Final = 3
RETRY_DELAY: Final = 0.5  # seconds, doubled each time
MAX_WAITING: Final = 50_000
QUEUES: Final = 3  # reports under way at a time: a gateway that stops sends all its clients to others in one moment

Call = Callable[[], Awaitable[None]]


class Ledger:
    """A few queues of reports, each with a task that delivers them; those of one session are in one queue."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._queues: list[asyncio.Queue[Call]] = [asyncio.Queue(MAX_WAITING) for _ in range(QUEUES)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._deliver(queue)) for queue in self._queues]

    async def stop(self, timeout: float) -> None:
        """Deliver what waits, for *timeout* seconds at most, and stop."""
        if not self._tasks:
            return
        try:
            async with asyncio.timeout(timeout):
                for queue in self._queues:
                    await queue.join()
        except TimeoutError:
            waiting = sum(queue.qsize() for queue in self._queues)
            logger.warning("%d session reports were not delivered; the portal closes them by itself", waiting)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def note_opened(self, report: SessionReport) -> None:
        self._put(report.session_id, lambda: self._directory.session_opened(report))

    def note_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None:
        self._put(session_id, lambda: self._directory.session_closed(session_id, code, reason, usage))

    def _put(self, session_id: str, call: Call) -> None:
        try:
            self._queues[hash(session_id) % QUEUES].put_nowait(call)
        except asyncio.QueueFull:
            logger.error("the portal takes no session reports; the list of connected clients there is out of date")

    async def _deliver(self, queue: asyncio.Queue[Call]) -> None:
        while True:
            call = await queue.get()
            try:
                await self._try_call(call)
            finally:
                queue.task_done()

    async def _try_call(self, call: Call) -> None:
        for attempt in range(TRIES):
            try:
                async with asyncio.timeout(CALL_TIMEOUT):  # wait_for() may lose a cancellation, and this would go on
                    await call()
                return
            except Exception as error:
                if attempt + 1 == TRIES:
                    logger.error("a session report was not delivered: %s", describe(error))
                else:
                    await asyncio.sleep(RETRY_DELAY * 2**attempt)


def describe(error: BaseException) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
