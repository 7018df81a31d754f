"""Rows, people and real parts for the portal's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from django.contrib.auth.models import User
from django.test import Client

from portal.models import Tunnel
from portal.notices import CHANNEL
from portal.services.tokens import mint_token
from tests.conftest import STAFF


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
def token(prod: Tunnel) -> str:
    return mint_token(tunnel=prod, name="laptop", actor=STAFF)[1]


@pytest.fixture
def staff(admin_user: User, client: Client) -> Client:
    client.force_login(admin_user)
    return client
