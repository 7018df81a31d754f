"""Writers at the same time, on the database as it runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from portal.models import Customer, Event, TunnelPort
from portal.services.customers import create_customer, update_customer
from portal.services.events import Actor
from portal.services.tokens import mint_token, revoke_token
from portal.services.tunnels import create_tunnel, update_tunnel

STAFF = Actor("staff")
WRITERS = 6

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(write: Callable[[int], Any]) -> list[Any]:
    """Run a write in many threads, each with a connection of its own, begun at the same moment."""
    barrier = Barrier(WRITERS, timeout=20)

    def run(number: int) -> Any:
        try:
            barrier.wait()
            return write(number)
        except ValidationError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(run, range(WRITERS)))


def test_each_tunnel_gets_listen_ports_of_its_own() -> None:
    acmeco = create_customer(name="acmeco", actor=STAFF)
    made = at_once(lambda number: create_tunnel(customer=acmeco, name=f"t{number}", tcp_ports=[25060], actor=STAFF))
    assert not [one for one in made if isinstance(one, Exception)]
    http = TunnelPort.objects.filter(kind="http").order_by("listen_port").values_list("listen_port", flat=True)
    assert list(http) == [8001 + number for number in range(WRITERS)]
    tcp = TunnelPort.objects.filter(kind="tcp").order_by("listen_port").values_list("listen_port", flat=True)
    assert list(tcp) == [20000 + number for number in range(WRITERS - 1)] + [25060]


def test_no_change_to_a_tunnel_is_lost() -> None:
    tunnel = create_tunnel(customer=create_customer(name="acmeco", actor=STAFF), name="prod", actor=STAFF)
    at_once(lambda number: update_tunnel(tunnel=tunnel, max_sessions=100 + number, actor=STAFF))
    tunnel.refresh_from_db()
    assert tunnel.generation == 1 + WRITERS
    changes = [event.details["max_sessions"] for event in Event.objects.filter(verb="tunnel.update").order_by("pk")]
    # Each began where the one before had ended.
    assert [change["from"] for change in changes] == [16] + [change["to"] for change in changes[:-1]]


def test_no_change_to_a_customer_is_lost() -> None:
    customer = create_customer(name="acmeco", display_name="first", actor=STAFF)
    at_once(lambda number: update_customer(customer=customer, display_name=str(number), actor=STAFF))
    changes = [event.details["display_name"] for event in Event.objects.filter(verb="customer.update").order_by("pk")]
    assert [change["from"] for change in changes] == ["first"] + [change["to"] for change in changes[:-1]]
    assert len(changes) == WRITERS


def test_a_token_is_revoked_by_one() -> None:
    tunnel = create_tunnel(customer=create_customer(name="acmeco", actor=STAFF), name="prod", actor=STAFF)
    token, _ = mint_token(tunnel=tunnel, name="laptop", actor=STAFF)
    revoked = at_once(lambda _: revoke_token(token=token, actor=STAFF).revoked_at)
    assert len(set(revoked)) == 1
    assert Event.objects.filter(verb="token.revoke").count() == 1


def refusals(made: list[Any]) -> list[dict[str, list[str]]]:
    return [one.message_dict for one in made if isinstance(one, ValidationError)]


def test_a_name_taken_meanwhile_is_refused_at_the_field() -> None:
    made = at_once(lambda _: create_customer(name="acmeco", actor=STAFF))
    taken = {"name": ["A customer of this name exists already. Choose another name."]}
    assert refusals(made) == [taken] * (WRITERS - 1)

    acmeco = Customer.objects.get()
    made = at_once(lambda _: create_tunnel(customer=acmeco, name="prod", tcp_ports=[22], actor=STAFF))
    taken = {"name": ["This customer has a tunnel of this name already. Choose another name."]}
    assert refusals(made) == [taken] * (WRITERS - 1)
    assert TunnelPort.objects.count() == 2
