"""A gateway in process, clients that join it, and what they log."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import structlog

from tests.client.gateway import TOKEN, InProcessGateway, Service
from tests.client.waiting import until
from tunnels.client.backoff import Backoff
from tunnels.client.client import Client, report_stray_error
from tunnels.client.options import load_options
from tunnels.endpoint import Timing
from tunnels.logs import configure_logs

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxies this machine has, tests go the direct way unless they say otherwise."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Log:
    """What was logged, as text."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def find(self, *words: str) -> list[str]:
        """Return the lines that hold all of *words*."""
        return [line for line in self.lines if all(word in line for word in words)]

    async def wait_for(self, *words: str) -> str:
        await until(lambda: self.find(*words), f"a line with {words} in:\n{self.text}")
        return self.find(*words)[0]


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    """Everything that is logged; no test may bring the token into it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    log = Log()
    configure_logs("text", "debug", log.stream)
    yield log
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    assert TOKEN not in log.text
    assert "Traceback" not in log.text


@pytest.fixture
async def gateway() -> AsyncIterator[InProcessGateway]:
    gateway = InProcessGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


class RunningClient:
    """A client on the test's own loop."""

    def __init__(self, client: Client) -> None:
        asyncio.get_running_loop().set_exception_handler(report_stray_error)
        self.client = client
        self.exit_code = asyncio.ensure_future(client.run())

    def stop(self) -> None:
        self.client.stop()

    async def end(self) -> int:
        async with asyncio.timeout(15):
            return await self.exit_code


def quick_backoff() -> Backoff:
    """Wait a hundredth of what a client outside of tests waits."""
    return Backoff(lambda low, high: high / 100)


StartClient = Callable[..., RunningClient]


@pytest.fixture
async def start_client(gateway: InProcessGateway) -> AsyncIterator[StartClient]:
    """Start clients with the options of the command line; they are stopped at the end."""
    running: list[RunningClient] = []

    def start(
        *upstreams: str,
        make_backoff: Callable[[], Backoff] = quick_backoff,
        timing: Timing | None = None,
        **flags: Any,
    ) -> RunningClient:
        given = {"url": gateway.url, "token": TOKEN, "upstream": list(upstreams)}
        given |= {name.replace("_", "-"): value for name, value in flags.items()}
        client = RunningClient(Client(load_options(given, {}), timing=timing, make_backoff=make_backoff))
        running.append(client)
        return client

    yield start
    for client in running:
        if not client.exit_code.done():
            client.stop()
            client.stop()
        await client.end()


StartService = Callable[..., Any]


@pytest.fixture
async def start_service() -> AsyncIterator[StartService]:
    """Start services on the customer's side; they are stopped at the end."""
    services: list[Service] = []

    async def start(handle: Any, **where: Any) -> Service:
        service = Service(handle)
        await service.start(**where)
        services.append(service)
        return service

    yield start
    for service in services:
        await service.stop()


@pytest.fixture
def unused_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
