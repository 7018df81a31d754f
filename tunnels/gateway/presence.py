"""What the portal knows of this gateway: that it is there, where other gateways reach it, and that it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from .directory import Directory, GatewayReport, Usage
from .ledger import describe

logger = logging.getLogger(__name__)

CALL_TIMEOUT: Final = 10.0  # seconds


class Presence:
    """Report a gateway, one call at a time: a heartbeat under way must not undo what was said after it."""

    def __init__(self, directory: Directory, report: GatewayReport) -> None:
        self.report = report
        self._directory = directory
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """Say that the gateway starts; raises what the portal's answer raises."""
        async with self._turn:
            async with asyncio.timeout(CALL_TIMEOUT):
                await self._directory.gateway_started(self.report)

    async def beat(self, sessions: Mapping[str, Usage]) -> None:
        """Say that the gateway and these sessions are live."""
        async with self._turn:
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    await self._directory.heartbeat(self.report, sessions)
            except Exception as error:
                logger.error("the portal took no heartbeat: %s", describe(error))

    async def drain(self) -> None:
        """Say that the gateway takes no new clients and no new streams."""
        async with self._turn:
            self.report = replace(self.report, draining=True)  # heartbeats say it again
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    await self._directory.gateway_draining(self.report.name)
            except Exception as error:
                logger.error("the portal could not be told that this gateway is stopping: %s", describe(error))

    async def end(self) -> None:
        """Say that the gateway is gone."""
        async with self._turn:
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    await self._directory.gateway_stopped(self.report.name)
            except Exception as error:
                logger.error("the portal could not be told that this gateway is gone: %s", describe(error))
