"""Tell the portal which sessions opened and closed, in order, without a session ever waiting for it."""

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

Call = Callable[[], Awaitable[None]]


class Ledger:
    """A queue of reports, and the one task that delivers them."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._calls: asyncio.Queue[Call] = asyncio.Queue(MAX_WAITING)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._deliver())

    async def stop(self, timeout: float) -> None:
        """Deliver what waits, for *timeout* seconds at most, and stop."""
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._calls.join(), timeout)
        except TimeoutError:
            logger.warning(
                "%d session reports were not delivered; the portal closes them by itself", self._calls.qsize()
            )
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def note_opened(self, report: SessionReport) -> None:
        self._put(lambda: self._directory.session_opened(report))

    def note_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None:
        self._put(lambda: self._directory.session_closed(session_id, code, reason, usage))

    def _put(self, call: Call) -> None:
        try:
            self._calls.put_nowait(call)
        except asyncio.QueueFull:
            logger.error("the portal takes no session reports; the list of connected clients there is out of date")

    async def _deliver(self) -> None:
        while True:
            call = await self._calls.get()
            try:
                await self._try_call(call)
            finally:
                self._calls.task_done()

    async def _try_call(self, call: Call) -> None:
        for attempt in range(TRIES):
            try:
                await asyncio.wait_for(call(), CALL_TIMEOUT)
                return
            except Exception as error:
                if attempt + 1 == TRIES:
                    logger.error("a session report was not delivered: %s", describe(error))
                else:
                    await asyncio.sleep(RETRY_DELAY * 2**attempt)


def describe(error: BaseException) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
