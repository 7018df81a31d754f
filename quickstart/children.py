"""The processes of one ``make up``: started, watched and stopped together.

Every child leads a process group of its own, so that Ctrl-C in the terminal reaches the supervisor alone, which then
stops them in the opposite order of their start. On Linux the kernel stops them too when the supervisor is killed.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quickstart.errors import StartFailed

STOP_SECONDS = 8.0  # a child that is asked to stop and still runs then is killed
POLL_SECONDS = 0.05
TAIL_LINES = 15
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Account:
    """A user of this machine that a child runs as."""

    name: str
    user_id: int
    group_id: int


@dataclass(frozen=True)
class Command:
    """How a process is run.

    Args:
        arguments: the program and its arguments.
        environment: what the process has in its environment besides ours; MOORLINE_* of ours it does not get.
        stdin: what it reads from its standard input, for what neither `ps` nor a file should show.
        directory: where it runs; the current directory when None.
        account: whom it runs as; us when None.
        stop_signal: what asks it to stop.
    """

    arguments: Sequence[str | os.PathLike[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    directory: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Child:
    """A process that runs."""

    name: str
    process: asyncio.subprocess.Process
    stop_signal: signal.Signals

    def kill_group(self) -> None:
        """Kill what is left of the child's process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Children:
    """Start, watch and stop the processes of one ``make up``.

    Args:
        logs: the directory for one log file a child; that of the last time is kept as NAME.log.1.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[Child] = []
        self._logged: set[str] = set()
        self._hurry = asyncio.Event()

    async def start(self, name: str, command: Command) -> Child:
        """Start a process that is meant to run until `stop`, and return it.

        Args:
            name: what messages and the log file call it.
            command: how to run it.

        Raises:
            StartFailed: the program can't be run.
        """
        child = await self._spawn(name, command)
        self._running.append(child)
        return child

    async def run(self, name: str, command: Command, limit: float) -> None:
        """Run a process to its end.

        Args:
            name: what messages and the log file call it.
            command: how to run it.
            limit: seconds it may take.

        Raises:
            StartFailed: it took longer, or ended with an exit code other than 0.
        """
        try:
            async with asyncio.timeout(limit):
                code = await self.attempt(name, command)
        except TimeoutError:
            raise self._fail(name, f"was not done within {limit:.0f} s") from None
        if code:
            raise self._fail(name, f"failed ({describe_exit(code)})")

    async def attempt(self, name: str, command: Command) -> int:
        """Run a process to its end and return its exit code; when this is cancelled the process is stopped."""
        child = await self._spawn(name, command)
        try:
            return await child.process.wait()
        finally:
            await self._stop_child(child)

    async def wait_ready(self, name: str, ready: Callable[[], Awaitable[bool]], limit: float) -> None:
        """Wait until `ready` says yes.

        Args:
            name: the process whose log tells why it isn't.
            ready: asked again and again.
            limit: seconds to wait at most.

        Raises:
            StartFailed: the time is over, or a child ended meanwhile.
        """
        deadline = time.monotonic() + limit
        while True:
            self._check_running()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(deadline - time.monotonic(), POLL_SECONDS)):
                    if await ready():
                        return
            if time.monotonic() >= deadline:
                raise self._fail(name, f"was not ready within {limit:.0f} s")
            await asyncio.sleep(POLL_SECONDS)

    async def wait_for_exit(self) -> None:
        """Wait until a child ends by itself, which none should.

        Raises:
            StartFailed: always, naming the child.
        """
        waiting = [asyncio.create_task(child.process.wait()) for child in self._running]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        self._check_running()

    def hurry(self) -> None:
        """Kill from now on, instead of waiting for children to stop."""
        self._hurry.set()

    async def stop(self) -> None:
        """Stop every child, the last started first; kill what does not stop in time."""
        while self._running:
            await self._stop_child(self._running.pop())

    def _check_running(self) -> None:
        for child in self._running:
            code = child.process.returncode
            if code is not None:
                raise self._fail(child.name, f"stopped by itself ({describe_exit(code)})")

    def _log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _keep_last_log(self, name: str) -> None:
        """Put the log of the last time aside, before the first process of this name writes its own."""
        if name not in self._logged:
            self._logged.add(name)
            with contextlib.suppress(FileNotFoundError):
                self._log_of(name).replace(self._logs / f"{name}.log.1")

    def _fail(self, name: str, what: str) -> StartFailed:
        log = self._log_of(name)
        tail = ""
        with contextlib.suppress(OSError):
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
        return StartFailed(f"{name} {what}; its log is {os.path.relpath(log)}", tail)

    async def _spawn(self, name: str, command: Command) -> Child:
        account = command.account
        try:
            self._keep_last_log(name)
            with self._log_of(name).open("wb") as output:
                process = await asyncio.create_subprocess_exec(
                    *command.arguments,
                    stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**_inherit_environment(), **command.environment},
                    cwd=command.directory,
                    process_group=0,
                    preexec_fn=_die_with_parent(command.stop_signal),
                    user=None if account is None else account.user_id,
                    group=None if account is None else account.group_id,
                    extra_groups=None if account is None else [],
                )
        except OSError as error:
            raise StartFailed(f"{name} can't be started: {error}") from None
        if process.stdin is not None:
            process.stdin.write(command.stdin.encode())
            process.stdin.close()
        return Child(name, process, command.stop_signal)

    async def _stop_child(self, child: Child) -> None:
        if child.process.returncode is None:
            child.process.send_signal(child.stop_signal)
            ended = asyncio.create_task(child.process.wait())
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait({ended, hurry}, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            child.kill_group()
            await ended
        child.kill_group()


def describe_exit(code: int) -> str:
    """Say in words how a process ended, from its return code (negative: a signal)."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _inherit_environment() -> dict[str, str]:
    """Return our environment without Moorline's variables: a child has those that it was given, and no others."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}


def _die_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    """Return what a child does before it becomes its program: ask the kernel for `stop_signal` when we are gone.

    The wish is lost when a process changes its user, so it is made after that, where `preexec_fn` runs.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def die_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:  # it went before the wish was made
            os._exit(1)

    return die_with_parent
