"""Who else holds which tunnel: asked of the portal when a notice says so, and regularly, because notices get lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection
from typing import Final

from .directory import Directory, Holder, Route
from .ledger import describe
from .registry import Registry

logger = logging.getLogger(__name__)

REFRESH_INTERVAL: Final = 20.0  # seconds between two readings of all routes
GATHER: Final = 0.03  # seconds in which notices are gathered for one question
RETRY_DELAY: Final = 2.0  # seconds after a question that was not answered
READ_TIMEOUT: Final = 10.0  # seconds
MAX_ASKED: Final = 500  # tunnels in one question; of more, all are asked for
TURN: Final = 100  # routes that are applied before the loop looks at others


class Routes:
    """Keep the registry's holders as the portal knows them.

    Arguments: this *gateway*'s name; the *customers* it serves, all where there are none.
    """

    def __init__(self, directory: Directory, registry: Registry, gateway: str, customers: Collection[str]) -> None:
        self._directory = directory
        self._registry = registry
        self._gateway = gateway
        self._customers = frozenset(customers)
        self._noted: set[str] = set()
        self._all_noted = False
        self._waiting: list[asyncio.Future[None]] = []
        self._news = asyncio.Event()

    def note(self, tunnel_id: str) -> None:
        """Have a tunnel's route read again soon; all of them where *tunnel_id* is empty."""
        if tunnel_id:
            self._noted.add(tunnel_id)
        else:
            self._all_noted = True
        self._news.set()

    async def reread(self, tunnel_id: str) -> None:
        """Have a tunnel's route read again; returns when that was done, or has failed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.note(tunnel_id)
        await done

    async def load(self) -> None:
        """Read every route; for the start. Raises what the portal's answer raises."""
        await self._read(None)

    async def run(self) -> None:
        """Read routes for ever: what was noted, and all of them every REFRESH_INTERVAL."""
        loop = asyncio.get_running_loop()
        due = loop.time() + REFRESH_INTERVAL
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._news.wait()
                await asyncio.sleep(GATHER)
            except TimeoutError:
                self._all_noted = True
            if await self._read_noted():
                due = loop.time() + REFRESH_INTERVAL * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret

    async def _read_noted(self) -> bool:
        """Read what was noted, and return whether that was every route."""
        noted, everything = self._noted, self._all_noted or len(self._noted) > MAX_ASKED
        waiting = self._waiting
        self._noted, self._all_noted, self._waiting = set(), False, []
        self._news.clear()
        try:
            await self._read(None if everything else noted)
        except Exception as error:
            logger.error("the portal could not be asked who holds which tunnel; trying again: %s", describe(error))
            self._noted |= noted
            self._all_noted |= everything
            self._news.set()
            _finish(waiting)
            await asyncio.sleep(RETRY_DELAY)
            return False
        finally:
            _finish(waiting)
        return everything

    async def _read(self, tunnel_ids: Collection[str] | None) -> None:
        async with asyncio.timeout(READ_TIMEOUT):
            routes = await self._directory.routes(tunnel_ids)
        found = set()
        for number, route in enumerate(routes, 1):
            if self._serves(route):
                found.add(route.tunnel_id)
                self._registry.set_holders(route, [holder for holder in route.holders if self._is_peer(holder)])
            if not number % TURN:
                await asyncio.sleep(0)
        self._registry.clear_holders(tunnel_ids, besides=found)

    def _is_peer(self, holder: Holder) -> bool:
        return holder.gateway != self._gateway and bool(holder.address and holder.hop_port)

    def _serves(self, route: Route) -> bool:
        return not self._customers or route.customer in self._customers


def _finish(waiting: list[asyncio.Future[None]]) -> None:
    for done in waiting:
        if not done.done():
            done.set_result(None)
