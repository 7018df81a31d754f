"""The programs of a system under test: started by the quickstart's supervisor, watched from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import randrange

from quickstart.children import Child, Children, Command
from quickstart.ports import LOOPBACK
from quickstart.settings import CHECKOUT
from tests.gateway.conftest import until

MEGABYTE = 1 << 20
MOORLINE = Path(sys.executable).with_name("moorline")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Program:
    """A process that runs, or did."""

    child: Child
    log: Path

    @property
    def pid(self) -> int:
        return self.child.process.pid

    @property
    def running(self) -> bool:
        return self.child.process.returncode is None

    def read_log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.log.read_text(encoding="utf-8", errors="replace")
        return ""

    def find(self, *words: str, after: int = 0) -> list[str]:
        """Return the lines of the log, from the *after*-th character on, that hold all of *words*."""
        return [line for line in self.read_log()[after:].splitlines() if all(word in line for word in words)]

    async def wait_for(self, *words: str, after: int = 0, bound: float = 20.0) -> str:
        """Wait for such a line and return it."""
        found = await until(
            lambda: self.find(*words, after=after), lambda: f"a line with {words} in:\n{self.read_log()}", bound
        )
        return str(found[0])

    async def wait_for_end(self, bound: float = 20.0) -> int:
        """Wait until the process has ended, and return its exit code."""
        await until(lambda: not self.running, f"the end of {self.child.name}", bound)
        code = self.child.process.returncode
        assert code is not None
        return code

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def end_group(self) -> None:
        """Kill the program and every process that it started."""
        self.child.kill_group()
        await self.wait_for_end()

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    @property
    def descriptors(self) -> int:
        """How many file descriptors are open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Programs:
    """Start programs that end with a test, or with the whole run.

    Arguments: *logs*, the directory of their logs.
    """

    def __init__(self, logs: Path) -> None:
        self.started: list[Program] = []
        self._logs = logs
        self._children = Children(logs)

    async def start(
        self, name: str, *words: str | os.PathLike[str], environment: Mapping[str, str] | None = None
    ) -> Program:
        """Start the program *words*, with *environment* on top of ours."""
        unique = f"{name}-{len(self.started)}"
        command = Command(words, {"PYTHONUNBUFFERED": "1", **(environment or {})}, directory=CHECKOUT)
        program = Program(await self._children.start(unique, command), self._logs / f"{unique}.log")
        self.started.append(program)
        return program

    async def stop(self) -> None:
        """Kill what still runs."""
        for program in self.started:
            with contextlib.suppress(ProcessLookupError):
                program.signal(signal.SIGCONT)
        self._children.hurry()
        await self._children.stop()


def choose_port() -> int:
    """Return a free port that no outgoing connection takes meanwhile: one below the ephemeral range."""
    while True:
        port = randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def accepts(port: int, host: str = LOOPBACK) -> bool:
    """Tell whether somebody listens on *port*."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def listens(port: int) -> Callable[[], bool]:
    """Return a question for `until`: whether somebody listens on *port*."""
    return lambda: accepts(port)
