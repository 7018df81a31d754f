"""The pages that a load balancer or a cluster asks."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import redis
from django.db import OperationalError, connection
from django.test import Client


def test_it_works(client: Client) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-store" in response["Cache-Control"]


def test_it_is_ready_when_database_and_redis_answer(client: Client, db: None, valkey: redis.Redis) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "checks": {"database": "ok", "redis": "ok"}}


@pytest.mark.parametrize(("url", "result"), [("redis://127.0.0.1:1/0", "failing"), ("", "not set")])
def test_it_is_not_ready_without_redis(client: Client, db: None, settings: Any, url: str, result: str) -> None:
    settings.MOORLINE_REDIS_URL = url
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "failing", "checks": {"database": "ok", "redis": result}}


def test_it_is_not_ready_without_a_database_and_alive_all_the_same(
    client: Client, db: None, valkey: redis.Redis
) -> None:
    with patch.object(connection, "cursor", side_effect=OperationalError("it is gone")):
        response = client.get("/readyz")
        assert client.get("/healthz").status_code == 200
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": "failing", "redis": "ok"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_only_read(client: Client, path: str) -> None:
    assert client.post(path).status_code == 405
