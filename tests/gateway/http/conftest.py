"""A line per test."""

from collections.abc import AsyncIterator

import pytest_asyncio

from .line import Line, open_line


@pytest_asyncio.fixture
async def line() -> AsyncIterator[Line]:
    async with open_line() as line:
        yield line
