"""Metrics for Prometheus, on a port of their own that no ingress leads to.

They are counted when they are asked for: nothing on the way of a byte keeps them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from django.db import DatabaseError, close_old_connections
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from portal import queries

Count = Callable[[], Mapping[str, float]]

GATEWAY_METRICS = {
    "moorline_gateway_tunnels": "Tunnels that this gateway listens for.",
    "moorline_gateway_sessions": "Sessions of clients on this gateway.",
    "moorline_gateway_streams": "Streams inside these sessions.",
    "moorline_gateway_connections": "Connections of applications to this gateway's listeners.",
    "moorline_gateway_draining": "1 while this gateway is stopping.",
}

log = logging.getLogger(__name__)


class GatewayCollector(Collector):
    """What one gateway holds now; *count* gives a number for each of GATEWAY_METRICS."""

    def __init__(self, count: Count) -> None:
        self._count = count

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts = self._count()
        for name, about in GATEWAY_METRICS.items():
            yield GaugeMetricFamily(name, about, value=counts[name])


class PortalCollector(Collector):
    """What the rows say; a database that fails leaves these out and is one line in the log."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        close_old_connections()
        try:
            yield from self._collect()
        except DatabaseError as error:
            log.warning("the metrics of the portal are left out: %s", " ".join(str(error).split()))
        finally:
            close_old_connections()

    def _collect(self) -> Iterator[GaugeMetricFamily]:
        totals = queries.count_totals()
        yield GaugeMetricFamily("moorline_customers", "Customers.", value=totals.customers)
        yield GaugeMetricFamily("moorline_sessions", "Live sessions on all gateways.", value=totals.live_sessions)
        yield _by_state("moorline_tunnels", "Tunnels.", queries.count_tunnels_by_state())
        yield _by_state("moorline_gateways", "Gateways by what they say of themselves.", queries.count_gateways())
        yield _by_state("moorline_work", "Rows to reconcile, and those that failed before.", queries.count_work())


def _by_state(name: str, about: str, counts: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=["state"])
    for state, number in counts.items():
        family.add_metric([state], number)
    return family


def serve_metrics(port: int, collectors: list[Collector]) -> Callable[[], None]:
    """Answer ``/metrics`` on *port* of every address, on a thread of its own.

    Returns:
        What stops it.

    Raises:
        OSError: the port cannot be had.
    """
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    server, thread = start_http_server(port, registry=registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return stop
