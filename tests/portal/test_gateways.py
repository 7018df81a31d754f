"""Gateways speak of themselves; who holds what follows from that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from portal import queries
from portal.models import Gateway, Session, Tunnel, TunnelStatus
from portal.queries import Holder
from portal.services import gateways, sessions
from portal.services.tokens import mint_token
from tests.conftest import STAFF

pytestmark = pytest.mark.django_db


def start(name: str = "gateway-0", **changes: Any) -> Gateway:
    said = {"address": "10.9.0.1", "hop_port": 8001, "version": "1", "customers": []} | changes
    return gateways.register_gateway(name=name, **said)


def beat(name: str = "gateway-0", **changes: Any) -> None:
    said = {"address": "10.9.0.1", "hop_port": 8001, "version": "1", "customers": [], "draining": False} | changes
    gateways.heartbeat_gateway(name=name, **said)


def connect(tunnel: Tunnel, gateway: str = "gateway-0") -> Session:
    return sessions.open_session(
        session_id=uuid4(),
        tunnel_id=tunnel.pk,
        token_id=mint_token(tunnel=tunnel, name="x", actor=STAFF)[0].pk,
        gateway=gateway,
        client_version="1",
        client_instance="1",
        client_address="192.0.2.7",
        transport="native",
        opened_at=timezone.now(),
    )


def holders(tunnel: Tunnel) -> tuple[Holder, ...]:
    return next((route.holders for route in queries.find_routes([tunnel.pk])), ())


def revision(tunnel: Tunnel) -> int:
    return TunnelStatus.objects.get(tunnel=tunnel).revision


def test_it_works(prod: Tunnel) -> None:
    start()
    assert queries.find_routes() == []
    connect(prod)
    (route,) = queries.find_routes()
    assert route == queries.Route(
        tunnel_id=str(prod.pk),
        customer="acmeco",
        tunnel="prod",
        tcp_ports={25060: 25060},
        http_port=8001,
        hosts=("identity1.local",),
        max_streams=4096,
        revision=1,
        holders=(Holder("gateway-0", "10.9.0.1", 8001, draining=False),),
    )


def test_routes_cost_as_much_for_many_tunnels(prod: Tunnel, django_assert_num_queries: Any) -> None:
    start()
    connect(prod)
    with django_assert_num_queries(5):
        queries.find_routes()


def test_a_gateway_that_went_silent_holds_nothing(prod: Tunnel) -> None:
    start()
    connect(prod)
    Gateway.objects.update(last_seen_at=timezone.now() - timedelta(seconds=61))
    assert holders(prod) == ()
    before = revision(prod)
    assert gateways.sweep_gone_gateways() == 1
    assert revision(prod) == before + 1
    beat()
    assert holders(prod) != ()
    assert revision(prod) == before + 2


def test_one_that_goes_silent_is_noted_once_and_is_itself_again(prod: Tunnel) -> None:
    start()
    connect(prod)
    before = revision(prod)
    Gateway.objects.update(last_seen_at=timezone.now() - timedelta(seconds=36))
    assert [gateways.sweep_gone_gateways(), gateways.sweep_gone_gateways()] == [0, 0]
    assert (Gateway.objects.get().silent, revision(prod)) == (True, before + 1)
    beat()
    assert (Gateway.objects.get().silent, revision(prod)) == (False, before + 2)


def test_what_changes_where_a_tunnel_answers_is_work(prod: Tunnel) -> None:
    start()
    session = connect(prod)
    before = revision(prod)
    beat()
    assert revision(prod) == before
    beat(address="10.9.0.9")
    gateways.drain_gateway(name="gateway-0")
    gateways.drain_gateway(name="gateway-0")
    assert revision(prod) == before + 2
    assert holders(prod) == (Holder("gateway-0", "10.9.0.9", 8001, draining=True),)
    sessions.close_session(session_id=session.pk, code="LOST")
    sessions.close_session(session_id=session.pk, code="LOST")
    assert revision(prod) == before + 3
    gateways.remove_gateway(name="gateway-0")
    assert not Gateway.objects.exists()


def test_a_gateway_that_starts_anew_drains_no_more(prod: Tunnel) -> None:
    start()
    gateways.drain_gateway(name="gateway-0")
    assert not start().draining
