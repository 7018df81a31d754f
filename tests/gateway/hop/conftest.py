"""Gateways that know each other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from ..peers import Peers


@pytest_asyncio.fixture
async def peers() -> AsyncIterator[Peers]:
    peers = Peers()
    yield peers
    await peers.stop()
