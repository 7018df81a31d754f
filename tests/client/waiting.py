"""Waiting for a condition with a bound, instead of sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], what: str, limit: float = 10.0) -> None:
    """Return when *condition* holds; fail saying *what* was waited for after *limit* seconds."""
    try:
        async with asyncio.timeout(limit):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {limit:g} s for {what}") from None
