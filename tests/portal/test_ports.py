"""Numbers for gateways to listen on, from the range of an installation."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.models import Customer, ReleasedPort, Tunnel
from portal.services import customers, ports, tunnels
from tests.conftest import STAFF

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _range(settings: LazySettings) -> None:
    settings.MOORLINE_LISTEN_PORTS = range(20000, 20004)


def make(customer: Customer, name: str, *tcp_ports: int) -> Tunnel:
    return tunnels.create_tunnel(customer=customer, name=name, tcp_ports=tcp_ports, actor=STAFF)


def numbers(tunnel: Tunnel) -> dict[int, int | None]:
    return dict(tunnel.ports.values_list("port", "listen_port"))


def release_long_ago(settings: LazySettings) -> None:
    ReleasedPort.objects.update(released_at=timezone.now() - timedelta(seconds=settings.MOORLINE_PORT_QUARANTINE + 1))


def test_every_number_is_from_the_range(acmeco: Customer) -> None:
    assert numbers(make(acmeco, "a", 25060)) == {8000: 20000, 25060: 20001}
    assert numbers(make(acmeco, "b", 20003)) == {8000: 20002, 20003: 20003}


def test_the_ports_of_the_gateway_itself_are_not_given_out(acmeco: Customer, settings: LazySettings) -> None:
    settings.MOORLINE_PORT, settings.MOORLINE_HOP_PORT = 20000, 20001
    assert numbers(make(acmeco, "a")) == {8000: 20002}


def test_where_none_is_free_the_tunnel_is_made_and_gets_one_later(acmeco: Customer, settings: LazySettings) -> None:
    first, second = make(acmeco, "a", 1), make(acmeco, "b", 1, 2)
    assert numbers(second) == {8000: 20002, 1: 20003, 2: None}
    generation = second.generation
    assert tunnels.find_listen_ports(tunnel=second).generation == generation
    tunnels.delete_tunnel(tunnel=first, actor=STAFF)
    release_long_ago(settings)
    assert tunnels.find_listen_ports(tunnel=second).generation == generation + 1
    assert numbers(second) == {8000: 20002, 1: 20003, 2: 20000}


@pytest.mark.parametrize("give_back", ["a port", "a tunnel", "a customer"])
def test_a_number_that_was_given_back_is_kept_from_others_for_a_while(
    acmeco: Customer, settings: LazySettings, give_back: str
) -> None:
    """A Service that has not heard of it yet would lead to another customer."""
    tunnel = make(acmeco, "a", 1)
    other = customers.create_customer(name="globex", actor=STAFF)
    match give_back:
        case "a port":
            tunnels.update_tunnel(tunnel=tunnel, tcp_ports=[], actor=STAFF)
        case "a tunnel":
            tunnels.delete_tunnel(tunnel=tunnel, actor=STAFF)
        case "a customer":
            customers.delete_customer(customer=acmeco, actor=STAFF)
    assert numbers(make(other, "b", 1)) == {8000: 20002, 1: 20003}
    release_long_ago(settings)
    assert 20001 in numbers(make(other, "c", 1)).values()


def test_moving_a_listener_keeps_to_the_range_and_gives_back(acmeco: Customer, settings: LazySettings) -> None:
    settings.MOORLINE_HOP_PORT = 20002
    tunnel = make(acmeco, "a", 1)
    for number in (8001, 20002):
        with pytest.raises(ValidationError):
            tunnels.move_listeners(tunnel=tunnel, listen_ports={1: number}, actor=STAFF)
    tunnels.move_listeners(tunnel=tunnel, listen_ports={1: 20003}, actor=STAFF)
    with pytest.raises(ValidationError, match="given back a short while ago"):
        tunnels.move_listeners(tunnel=tunnel, listen_ports={8000: 20001}, actor=STAFF)
    assert numbers(make(acmeco, "b")) == {8000: None}


def test_one_customer_cannot_take_all_numbers(acmeco: Customer, settings: LazySettings) -> None:
    settings.MOORLINE_MAX_PORTS = 3
    tunnel = make(acmeco, "a", 1)
    for change in (
        lambda: make(acmeco, "b", 1),
        lambda: tunnels.update_tunnel(tunnel=tunnel, tcp_ports=[1, 2, 3], actor=STAFF),
    ):
        with pytest.raises(ValidationError, match="may have 3"):
            change()
    make(customers.create_customer(name="globex", actor=STAFF), "a", 1)


def test_many_ports_cost_a_few_queries(acmeco: Customer, settings: LazySettings) -> None:
    settings.MOORLINE_LISTEN_PORTS = range(20000, 30000)
    with CaptureQueriesContext(connection) as few:
        make(acmeco, "a", 1)
    with CaptureQueriesContext(connection) as many:
        make(acmeco, "b", *range(1, 101))
    reads = [query for query in many if query["sql"].startswith("SELECT")]
    assert len(reads) <= len([query for query in few if query["sql"].startswith("SELECT")])


def test_numbers_that_are_kept_no_more_are_forgotten(acmeco: Customer, settings: LazySettings) -> None:
    tunnels.delete_tunnel(tunnel=make(acmeco, "a", 1), actor=STAFF)
    assert ports.prune_released_ports() == 0
    release_long_ago(settings)
    assert ports.prune_released_ports() == 2
    assert not ReleasedPort.objects.exists()


def test_without_a_range_nothing_is_kept(acmeco: Customer, settings: LazySettings) -> None:
    settings.MOORLINE_LISTEN_PORTS = None
    tunnels.delete_tunnel(tunnel=make(acmeco, "a", 25060), actor=STAFF)
    assert numbers(make(acmeco, "b", 25060))[25060] == 25060
