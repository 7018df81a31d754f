"""What the quickstart's tests share."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from quickstart.children import Children
from quickstart.state import State


@pytest.fixture
def state(tmp_path):
    """A state directory of its own."""
    return State(tmp_path / "state")


@pytest.fixture
async def children(state):
    """A supervisor of processes; what still runs at the end is stopped."""
    supervisor = Children(state.logs)
    yield supervisor
    supervisor.hurry()
    await supervisor.stop()


def is_running(pid: int) -> bool:
    """Tell whether a process is there and is no zombie that waits for its parent."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (ProcessLookupError, FileNotFoundError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def wait_until(condition, limit=15.0):
    """Wait for a condition, at most `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.02)
