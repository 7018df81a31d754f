"""Exposure: what the tunnel exposes, compared with what this client can reach."""

from __future__ import annotations

import structlog

from ..protocol import Exposure
from .upstreams import UpstreamTable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ExposureCheck:
    """Say once per change, for all sessions together, which upstreams are missing and which are of no use."""

    def __init__(self, table: UpstreamTable) -> None:
        self._table = table
        self._said: tuple[object, object] | None = None

    def compare(self, exposure: Exposure) -> None:
        """Compare with what the gateway has just said."""
        missing, unused = self._table.missing_options(exposure), self._table.unused_routes(exposure)
        if (missing, unused) == self._said:
            return
        self._said = (missing, unused)
        for what, option in missing:
            log.warning(f"the tunnel exposes {what} and nothing here serves it: add {option}")
        for route in unused:
            log.warning(
                f"nothing will come for {route}: the tunnel does not expose it; have the provider add it to the "
                "tunnel, or remove the --upstream"
            )
