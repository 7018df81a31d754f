"""``make up``: every part in its order, a line for each, and the addresses when all of them answer."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

from quickstart.children import Children
from quickstart.errors import StartFailed
from quickstart.ports import LOOPBACK, check_port
from quickstart.provider import Provider
from quickstart.settings import CUSTOMER, DATABASE, HOSTS, TUNNEL, Settings
from quickstart.site import Site
from quickstart.state import State


def run_up(settings: Settings, state: State) -> int:
    """Start everything, say where it is, and run until a signal or until a part ends by itself.

    Returns:
        The exit code: 0 after Ctrl-C, SIGTERM or SIGHUP; 1 when a part failed.

    Raises:
        StartFailed: another ``make up`` runs here, or a port is taken.
    """
    with state.locked({"tcp_port": settings.tcp_port}):
        for port, variable, purpose in settings.ports:
            check_port(port, variable, purpose)
        return asyncio.run(_supervise(settings, state))


async def _supervise(settings: Settings, state: State) -> int:
    children = Children(state.logs)
    work = asyncio.create_task(_start_all(settings, state, children))
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if stopping:
            children.hurry()
        stopping = True
        work.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number is not signal.SIGHUP:  # nohup stays nohup
            loop.add_signal_handler(number, stop)
    try:
        await work
    except asyncio.CancelledError:
        say("\nStopping.")
        return 0
    except StartFailed as error:
        say(f"\n{error}", error.detail)
        return 1
    finally:
        stopping = True  # from here on another Ctrl-C means: at once
        await children.stop()
    return 0


async def _start_all(settings: Settings, state: State, children: Children) -> None:
    started = time.monotonic()
    provider, site = Provider(settings, state, children), Site(settings, state, children)
    await _step("Valkey", provider.start_valkey())
    await _step("Database of the portal, administrator", provider.migrate())
    await _step(f"Customer {CUSTOMER}, tunnel {TUNNEL}, both enabled; token", provider.make_tunnel())
    await _step("Worker with beat", provider.start_worker())
    await _step("Portal and gateway", provider.start_portal())
    await _step(f"Example site: PostgreSQL with the database {DATABASE}", site.start_postgres())
    await _step(f"Example site: {' and '.join(HOSTS)}", site.start_services())
    await _step("Example site: the Moorline client", site.start_client(provider.token_file))
    await _step("Each service answers through the tunnel", site.check_tunnel())
    await _step("The worker answers", provider.wait_for_worker())
    say(_describe(settings, state.logs, provider.admin_password, time.monotonic() - started))
    await children.wait_for_exit()


async def _step(title: str, work: Awaitable[None]) -> None:
    """Print what is being done, and how long it took."""
    started = time.monotonic()
    say(f"  {title} ".ljust(64, "."), end=" ")
    await work
    say(f"{time.monotonic() - started:.1f} s")


def _describe(settings: Settings, logs: Path, password: str, seconds: float) -> str:
    curl = "\n".join(f"  curl -H 'Host: {host}' http://{LOOPBACK}:{settings.http_port}/" for host in HOSTS)
    return f"""
Ready after {seconds:.0f} s.

The portal
  http://{LOOPBACK}:{settings.portal_port}/admin/   user: admin   password: {password}

The services of the example customer, through its tunnel: paste these into another terminal
  psql -U postgres -h {LOOPBACK} -p {settings.tcp_port} -d {DATABASE} --set=sslmode=require
  make psql      (the same, where psql is not installed; try: SELECT * FROM open_invoices;)
{curl}

Logs are in {os.path.relpath(logs)}. Ctrl-C stops everything; the next make up goes on from here.
"""


def say(*lines: str, end: str = "\n") -> None:
    """Print what isn't empty, at once; a terminal that has gone stops nothing."""
    with contextlib.suppress(OSError):
        for line in filter(None, lines):
            sys.stdout.write(line + end)
        sys.stdout.flush()
