"""What the database itself refuses, whoever writes; on SQLite, and on PostgreSQL in test_postgres.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from portal.models import Customer, Token, Tunnel, TunnelHost, TunnelPort


def add_port(tunnel: Tunnel, **changes: Any) -> TunnelPort:
    return TunnelPort.objects.create(**{"tunnel": tunnel, "kind": "tcp", "port": 1, "listen_port": 1} | changes)


VIOLATIONS: dict[str, Callable[[Tunnel], Any]] = {
    "a customer's name twice": lambda _: Customer.objects.create(name="acmeco"),
    "a customer's name that is no label": lambda _: Customer.objects.create(name="Acme"),
    "a customer's name that ends in a hyphen": lambda _: Customer.objects.create(name="acme-"),
    "a tunnel's name twice": lambda tunnel: Tunnel.objects.create(customer=tunnel.customer, name="prod"),
    "a tunnel's name that begins with a digit": lambda one: Tunnel.objects.create(customer=one.customer, name="1"),
    "no sessions": lambda tunnel: Tunnel.objects.filter(pk=tunnel.pk).update(max_sessions=0),
    "no streams": lambda tunnel: Tunnel.objects.filter(pk=tunnel.pk).update(max_streams=0),
    "port 0": lambda tunnel: add_port(tunnel, port=0),
    "port 65536": lambda tunnel: add_port(tunnel, port=65536),
    "listen port 65536": lambda tunnel: add_port(tunnel, listen_port=65536),
    "a port twice": lambda tunnel: add_port(tunnel, port=25060),
    "a listen port twice": lambda tunnel: add_port(tunnel, listen_port=25060),
    "port 8000 for TCP": lambda one: one.ports.filter(kind="http").update(kind="tcp"),
    "another port for HTTP": lambda tunnel: add_port(tunnel, kind="http"),
    "a port of another kind": lambda tunnel: add_port(tunnel, kind="udp"),
    "a host name twice": lambda tunnel: TunnelHost.objects.create(tunnel=tunnel, name="identity1.local"),
    "a host name in capitals": lambda tunnel: TunnelHost.objects.create(tunnel=tunnel, name="A.local"),
    "a token twice": lambda one: Token.objects.create(tunnel=one, name="x", hash=one.tokens.get().hash),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_the_database_refuses(name: str, prod: Tunnel, token: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        VIOLATIONS[name](prod)


def test_rows_say_what_they_are(acmeco: Customer, prod: Tunnel, token: str) -> None:
    row = Token.objects.get()
    assert [str(acmeco), str(prod), str(row)] == ["acmeco", "acmeco/prod", f"laptop ({token[:10]}…)"]
    assert [str(port) for port in prod.ports.all()] == ["HTTP 8000", "TCP 25060"]
    assert [str(host) for host in prod.hosts.all()] == ["identity1.local"]


def test_the_database_is_the_one_that_was_asked_for() -> None:
    assert connection.vendor == ("postgresql" if "TEST_DATABASE_URL" in os.environ else "sqlite")


def test_no_migration_is_missing(db: None) -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
