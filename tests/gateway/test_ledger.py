"""Reports of sessions: each session's in order, several at a time, and a few tries for each."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from tunnels.gateway import ledger as ledger_module
from tunnels.gateway.directory import SessionReport, Usage
from tunnels.gateway.ledger import QUEUES, Ledger

from .conftest import until

NOTHING = Usage(0, 0)


class SlowPortal:
    """Takes reports when *gate* is set; *failures* is how many it does not take."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.waiting = 0
        self.failures = 0

    async def session_opened(self, report: SessionReport) -> None:
        await self._take("opened", report.session_id)

    async def session_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None:
        await self._take("closed", session_id)

    async def _take(self, what: str, session_id: str) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the database is down")
        self.taken.append((what, session_id))


def report(session_id: str) -> SessionReport:
    return SessionReport(session_id, "1", "1", "one", "", "", "", "", datetime.now(UTC))


async def test_it_works() -> None:
    portal = SlowPortal()
    ledger = Ledger(portal)  # type: ignore[arg-type]
    ledger.start()
    names = [str(number) for number in range(40)]
    for name in names:
        ledger.note_opened(report(name))
    for name in names:
        ledger.note_closed(name, "OK", "", NOTHING)
    await until(lambda: portal.waiting == QUEUES, "several to be under way")
    portal.gate.set()
    await ledger.stop(5.0)
    assert sorted(portal.taken) == sorted((what, name) for what in ("opened", "closed") for name in names)
    assert all(portal.taken.index(("opened", name)) < portal.taken.index(("closed", name)) for name in names)


async def test_a_report_that_is_not_taken_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "RETRY_DELAY", 0.01)
    portal = SlowPortal()
    portal.gate.set()
    portal.failures = 2
    ledger = Ledger(portal)  # type: ignore[arg-type]
    ledger.start()
    ledger.note_opened(report("1"))
    ledger.note_closed("1", "OK", "", NOTHING)
    await ledger.stop(5.0)
    assert portal.taken == [("opened", "1"), ("closed", "1")]


async def test_a_portal_that_never_answers_holds_up_no_end(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(SlowPortal())  # type: ignore[arg-type]
    ledger.start()
    for number in range(20):
        ledger.note_opened(report(str(number)))
    await ledger.stop(0.05)
    assert "session reports were not delivered; the portal closes them by itself" in caplog.text
