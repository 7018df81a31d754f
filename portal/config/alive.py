"""How a worker and beat show that they are alive: by a file whose time they keep new, for a probe to look at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import bootsteps
from celery.beat import PersistentScheduler

ALIVE_SECONDS = 10.0


def make_touch(path: str) -> Callable[[], None]:
    """Return what renews the time of the file at *path*; where that is empty, what does nothing."""

    def touch() -> None:
        if path:
            Path(path).touch()
            os.utime(path)

    return touch


def make_worker_step(touch: Callable[[], None]) -> type[bootsteps.StartStopStep]:
    """Return a step of a worker's start that calls *touch* every ten seconds on the worker's own timer."""

    class AliveStep(bootsteps.StartStopStep):
        requires = {"celery.worker.components:Timer"}

        def start(self, worker: Any) -> None:
            touch()
            worker.timer.call_repeatedly(ALIVE_SECONDS, touch)

    return AliveStep


class AliveScheduler(PersistentScheduler):
    """Beat's scheduler, which shows at each turn that it is alive."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Do what is due, and return in how many seconds to come back."""
        make_touch(self.app.conf.moorline_alive_file)()
        return min(float(super().tick(*args, **kwargs)), ALIVE_SECONDS)
