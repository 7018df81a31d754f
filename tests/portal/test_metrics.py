"""Metrics, as Prometheus reads them."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from django.db import DatabaseError
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from portal import queries
from portal.config.asgi import Role, count_gateway, make_gateway, start_metrics
from portal.metrics import GATEWAY_METRICS, GatewayCollector, PortalCollector
from portal.models import Tunnel
from portal.services.gateways import register_gateway
from tests.cluster.apiserver import find_port

pytestmark = pytest.mark.django_db


def read(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {name: value for family in families for name, _, value, *_ in family.samples}


def collect(collector: Any) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {(sample.name, sample.labels.get("state", "")): sample.value for sample in samples}


def test_it_works(settings: Any) -> None:
    settings.MOORLINE_METRICS_PORT = find_port()
    stop = start_metrics(Role.GATEWAY, make_gateway())
    try:
        found = read(settings.MOORLINE_METRICS_PORT)
    finally:
        stop()
    assert found.keys() >= {*GATEWAY_METRICS, "process_resident_memory_bytes"}
    assert found["moorline_gateway_sessions"] == 0
    with pytest.raises(OSError, match="refused"):
        read(settings.MOORLINE_METRICS_PORT)


def test_without_a_port_nothing_listens() -> None:
    start_metrics(Role.PORTAL, None)()


@pytest.mark.django_db(transaction=True)
def test_the_portal_counts_rows(prod: Tunnel) -> None:
    register_gateway(name="gateway-0", address="10.9.0.1", hop_port=8001, version="1", customers=[])
    found = collect(PortalCollector())
    assert found["moorline_customers", ""] == 1
    assert found["moorline_tunnels", "never connected"] == 1
    assert found["moorline_tunnels", "connected"] == 0
    assert found["moorline_gateways", "up"] == 1
    assert (found["moorline_work", "due"], found["moorline_work", "failing"]) == (2, 0)


def test_a_gateway_counts_what_it_holds() -> None:
    assert collect(GatewayCollector(lambda: count_gateway(make_gateway())))["moorline_gateway_tunnels", ""] == 0


def test_a_database_that_fails_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise DatabaseError("it is\ngone")

    monkeypatch.setattr(queries, "count_totals", fail)
    assert collect(PortalCollector()) == {}
    assert "left out: it is gone" in caplog.text
