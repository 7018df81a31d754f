"""The installation that all system tests share, and the programs and services of one test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from quickstart.postgres import remove_site

from .installation import Gateway, Installation
from .programs import Programs
from .services import Services

HERE = Path(__file__).parent
TAIL = 40  # lines of each log that a failure shows
LOGS: set[Path] = set()  # the logs that a failure shows, or their directories


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests on one event loop: the installation they share lives on it."""
    for item in items:
        if item.path.is_relative_to(HERE) and asyncio.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the end of every log with a test that failed."""
    report = yield
    if report.failed and item.path.is_relative_to(HERE):
        for path in sorted(path for place in LOGS for path in ([*place.glob("*.log")] or [place])):
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                report.sections.append((f"the end of {path.name}", "\n".join(lines[-TAIL:])))
    return report


@pytest.fixture(scope="package", autouse=True)
def _direct() -> Iterator[None]:
    """Whatever proxies this machine has, programs go the direct way unless a test says otherwise."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            environment.delenv(name, raising=False)
            environment.delenv(name.upper(), raising=False)
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """Portal, gateway, Valkey, PostgreSQL with TLS and the client of acmeco/prod, all of them real."""
    installation = Installation(tmp_path_factory.mktemp("system") / "state")
    LOGS.update(installation.logs / f"{name}.log" for name in ("portal", "client", "staff"))
    try:
        await installation.start()
        yield installation
    finally:
        await installation.stop()
        remove_site(installation.state)


@pytest_asyncio.fixture(loop_scope="session")
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    """Start programs that end with the test."""
    programs = Programs(tmp_path)
    LOGS.add(tmp_path)
    yield programs
    await programs.stop()
    LOGS.discard(tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway that the tests of a module share, and whose memory and descriptors nobody else uses."""
    directory = tmp_path_factory.mktemp("gateway")
    programs = Programs(directory)
    LOGS.add(directory)
    yield await installation.start_gateway(programs)
    await programs.stop()
    LOGS.discard(directory)


@pytest_asyncio.fixture(loop_scope="session")
async def services() -> AsyncIterator[Services]:
    """Start services of the customer's; they end with the test."""
    services = Services()
    yield services
    await services.stop()
