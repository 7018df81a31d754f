"""The client: lines to the gateway, the upstreams behind them, and a stop in good order."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import signal
import ssl
from collections.abc import Callable
from types import FrameType
from typing import Any, Final
from uuid import uuid4

import structlog

from .. import __version__
from ..descriptors import raise_file_limit
from ..endpoint import Timing
from ..protocol import Hello
from .backoff import Backoff
from .dialling import DialPolicy, make_upstream_context
from .exposure import ExposureCheck
from .forwarding import Forwarder
from .line import Destination, Line
from .options import ClientOptions, OptionInvalid
from .spread import Spread

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1  # a fault of the client itself
EXIT_USAGE: Final = 2  # options that can't be used
EXIT_CUT: Final = 130  # stopped at once by a second signal


class Client:
    """Run what *options* say. Arguments for tests: *timing* of sessions, and the *make_backoff* of each line."""

    def __init__(
        self,
        options: ClientOptions,
        *,
        timing: Timing | None = None,
        make_backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._options = options
        self._make_backoff = make_backoff
        gateway_tls, upstream_tls = make_contexts(options)
        self._policy = DialPolicy(options.dial_timeout, upstream_tls)
        agent = f"moorline/{__version__} ({platform.system()})"
        hello = Hello(agent, uuid4().hex, exposure=options.upstreams.exposure)
        self._destination = Destination(options.url, options.token, gateway_tls, hello, timing)
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()

    def stop(self) -> None:
        """Let streams finish and end; the second call ends at once."""
        (self._cut if self._stop.is_set() else self._stop).set()

    async def run(self) -> int:
        """Keep the lines until :meth:`stop`; return the exit code."""
        options = self._options
        for warning in options.warnings:
            log.warning(warning)
        count = sum(map(len, options.upstreams.routes.values()))
        log.info(
            f"moorline {__version__} joins tunnel {options.tunnel} at {options.url}, "
            f"with {count} upstream{'s' * (count != 1)}"
        )
        forwarder = Forwarder(options.upstreams, self._policy)
        exposure = ExposureCheck(options.upstreams)
        spread = Spread()
        lines = [
            Line(self._destination, forwarder, exposure, self._make_backoff(), spread)
            for _ in range(options.connections)
        ]
        running = [asyncio.ensure_future(line.run()) for line in lines]
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({stop, *running}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        failed = _report_failures(running)
        cut = await self._end(lines, forwarder)
        await asyncio.gather(*running, return_exceptions=True)
        log.info("stopped")
        return EXIT_FAILED if failed else EXIT_CUT if cut else EXIT_OK

    async def _wait_for_cut(self) -> None:
        await self._cut.wait()

    async def _end(self, lines: list[Line], forwarder: Forwarder) -> bool:
        """End every line, and return whether a second signal cut that short."""
        limit = self._options.drain_timeout
        count = sum(forwarder.connections.values())
        if count:
            log.info(
                f"stopping: {count} open connections have {limit:g} s to finish; a second signal ends them at once"
            )
        finishing = asyncio.ensure_future(_finish_lines(lines, limit))
        cut = asyncio.ensure_future(self._wait_for_cut())
        await asyncio.wait({finishing, cut}, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        if finishing.done():
            finishing.result()
            return False
        finishing.cancel()
        for line in lines:
            line.cut()
        with contextlib.suppress(asyncio.CancelledError):
            await finishing
        return True


async def _finish_lines(lines: list[Line], limit: float) -> None:
    await asyncio.gather(*[line.finish(limit) for line in lines])


def make_contexts(options: ClientOptions) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Return the TLS contexts for a wss gateway and for https upstreams, each None where it is not needed.

    Raises OptionInvalid.
    """
    gateway = upstream = None
    try:
        where = "--ca-file"
        if options.url.startswith("wss:"):
            gateway = ssl.create_default_context(cafile=options.ca_file)
        where = "--upstream-ca-file"
        if any(upstream.tls for members in options.upstreams.routes.values() for upstream in members):
            upstream = make_upstream_context(options.upstream_ca_file, options.upstream_insecure)
    except (OSError, ssl.SSLError):
        raise OptionInvalid(f"{where}: the file holds no certificate in PEM form") from None
    return gateway, upstream


def run_client(options: ClientOptions) -> int:
    """Run a client until a signal stops it; return the exit code. Raises OptionInvalid."""
    raise_file_limit()
    with asyncio.Runner(loop_factory=choose_loop_factory()) as runner:
        return runner.run(_run(options))


async def _run(options: ClientOptions) -> int:
    asyncio.get_running_loop().set_exception_handler(report_stray_error)
    client = Client(options)
    stop_on_signals(client.stop)
    return await client.run()


def report_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong outside of every task, on one line.

    A TLS library reports here what the dial itself reports as well, and then in our words.
    """
    error = context.get("exception")
    kind = error if isinstance(error, type) else type(error)
    if issubclass(kind, OSError):
        log.debug(f"{context.get('message', 'a connection failed')}: {error}")
    else:
        log.error(f"{context.get('message', 'an error')} ({error!r}): please report this line")


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call *stop* on the event loop for SIGTERM and SIGINT, also on Windows."""
    loop = asyncio.get_running_loop()

    def relay(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:
            signal.signal(number, relay)


def choose_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's where it is installed, else None for asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 - there is none for Windows
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _report_failures(running: list[asyncio.Task[None]]) -> bool:
    """Log what ended a line although lines never end, and return whether there was such a thing."""
    failures = [task.exception() for task in running if task.done() and not task.cancelled()]
    for failure in failures:
        log.error(f"the client failed ({failure!r}): please report this line; it stops and can be started again")
    return bool(failures)
