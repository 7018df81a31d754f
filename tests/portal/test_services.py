"""What services write, record and announce."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from portal.models import Customer, Event, Token, Tunnel, TunnelPort
from portal.services import customers, staff, tokens, tunnels
from portal.services.events import Actor, record_event

STAFF = Actor("anna", "192.0.2.4")


def listen_ports(tunnel: Tunnel) -> dict[int, int]:
    return dict(tunnel.ports.values_list("port", "listen_port"))


def messages(refusal: pytest.ExceptionInfo[ValidationError]) -> dict[str, list[str]]:
    return refusal.value.message_dict


WRITES: dict[str, Callable[[Tunnel], Any]] = {
    "customer.create": lambda _: customers.create_customer(name="globex", actor=STAFF),
    "customer.update": lambda tunnel: customers.update_customer(
        customer=tunnel.customer, display_name="A", actor=STAFF
    ),
    "customer.suspend": lambda tunnel: customers.suspend_customer(customer=tunnel.customer, actor=STAFF),
    "customer.delete": lambda tunnel: customers.delete_customer(customer=tunnel.customer, actor=STAFF),
    "tunnel.create": lambda tunnel: tunnels.create_tunnel(customer=tunnel.customer, name="test", actor=STAFF),
    "tunnel.update": lambda tunnel: tunnels.update_tunnel(tunnel=tunnel, tcp_ports=[1], actor=STAFF),
    "tunnel.disable": lambda tunnel: tunnels.disable_tunnel(tunnel=tunnel, actor=STAFF),
    "tunnel.delete": lambda tunnel: tunnels.delete_tunnel(tunnel=tunnel, actor=STAFF),
    "token.mint": lambda tunnel: tokens.mint_token(tunnel=tunnel, name="x", actor=STAFF),
    "token.revoke": lambda tunnel: tokens.revoke_token(token=tunnel.tokens.get(), actor=STAFF),
    "staff.create": lambda _: staff.create_admin(username="bert", password="correct horse battery", actor=STAFF),
}
# Minting changes nothing for a session that is up, and neither does what is said about a customer.
QUIET = {"customer.create", "customer.update", "token.mint", "staff.create"}


@pytest.mark.parametrize("verb", WRITES)
def test_each_write_records_who_did_it_from_where(verb: str, prod: Tunnel, token: str) -> None:
    WRITES[verb](prod)
    event = Event.objects.first()
    assert (event.verb, event.actor, event.source_address) == (verb, "anna", "192.0.2.4")


@pytest.mark.parametrize("verb", WRITES)
def test_each_write_announces_the_tunnels_it_changes_once_committed(
    verb: str, prod: Tunnel, token: str, notices: Callable[[], list[str]], commit: Callable[[], Any]
) -> None:
    with commit():
        WRITES[verb](prod)
        assert notices() == []
    changed = Tunnel.objects.get(name="test").pk if verb == "tunnel.create" else prod.pk
    assert notices() == ([] if verb in QUIET else [str(changed)])


@pytest.mark.parametrize("verb", sorted(WRITES.keys() - QUIET))
def test_a_write_that_is_rolled_back_leaves_and_announces_nothing(
    verb: str, prod: Tunnel, token: str, notices: Callable[[], list[str]], commit: Callable[[], Any]
) -> None:
    events = Event.objects.count()
    with commit(), transaction.atomic():
        WRITES[verb](prod)
        transaction.set_rollback(True)
    assert Event.objects.count() == events
    assert Tunnel.objects.get().generation == 1
    assert notices() == []


def test_enabling_and_resuming_are_recorded_and_announced(
    prod: Tunnel, notices: Callable[[], list[str]], commit: Callable[[], Any]
) -> None:
    tunnels.disable_tunnel(tunnel=prod, actor=STAFF)
    customers.suspend_customer(customer=prod.customer, actor=STAFF)
    with commit():
        tunnels.enable_tunnel(tunnel=prod, actor=STAFF)
        customers.resume_customer(customer=prod.customer, actor=STAFF)
    assert notices() == [str(prod.pk), str(prod.pk)]
    assert list(Event.objects.values_list("verb", flat=True)[:2]) == ["customer.resume", "tunnel.enable"]


@pytest.mark.parametrize(
    "again",
    [
        lambda tunnel: tunnels.enable_tunnel(tunnel=tunnel, actor=STAFF),
        lambda tunnel: tunnels.update_tunnel(tunnel=tunnel, tcp_ports=["25060"], max_sessions=16, actor=STAFF),
        lambda tunnel: tunnels.update_tunnel(tunnel=tunnel, host_names=["IDENTITY1.local."], actor=STAFF),
        lambda tunnel: customers.resume_customer(customer=tunnel.customer, actor=STAFF),
        lambda tunnel: customers.update_customer(customer=tunnel.customer, display_name="Acme & Co", actor=STAFF),
    ],
)
def test_what_changes_nothing_is_not_recorded(prod: Tunnel, again: Callable[[Tunnel], Any]) -> None:
    before = Event.objects.count()
    again(prod)
    prod.refresh_from_db()
    assert prod.generation == 1
    assert Event.objects.count() == before


def test_every_change_to_what_is_desired_adds_a_generation(prod: Tunnel) -> None:
    changes: list[Callable[[], Any]] = [
        lambda: tunnels.update_tunnel(tunnel=prod, tcp_ports=[22], actor=STAFF),
        lambda: tunnels.update_tunnel(tunnel=prod, host_names=[], actor=STAFF),
        lambda: tunnels.update_tunnel(tunnel=prod, max_streams=5, actor=STAFF),
        lambda: tunnels.disable_tunnel(tunnel=prod, actor=STAFF),
        lambda: tunnels.enable_tunnel(tunnel=prod, actor=STAFF),
        lambda: customers.suspend_customer(customer=prod.customer, actor=STAFF),
    ]
    for generation, change in enumerate(changes, start=2):
        change()
        assert Tunnel.objects.get().generation == generation


def test_a_service_writes_over_no_change_made_in_between(prod: Tunnel) -> None:
    stale = Tunnel.objects.get(pk=prod.pk)
    tunnels.update_tunnel(tunnel=prod, max_sessions=2, actor=STAFF)
    tunnels.update_tunnel(tunnel=stale, max_streams=7, actor=STAFF)
    now = Tunnel.objects.get()
    assert (now.max_sessions, now.max_streams, now.generation) == (2, 7, 3)


def test_a_tunnel_takes_the_limits_of_the_installation(acmeco: Customer, settings: Any) -> None:
    settings.MOORLINE_MAX_SESSIONS, settings.MOORLINE_MAX_STREAMS = 3, 50
    tunnel = tunnels.create_tunnel(customer=acmeco, name="test", actor=STAFF)
    assert (tunnel.max_sessions, tunnel.max_streams) == (3, 50)


def test_every_mistake_in_a_tunnel_is_told_at_once_at_its_field(prod: Tunnel) -> None:
    with pytest.raises(ValidationError) as refusal:
        tunnels.create_tunnel(
            customer=prod.customer,
            name="prod",
            tcp_ports=["0", 22, 22, 8000, "x"],
            host_names=["a..b", "c.local", "C.local"],
            max_sessions=0,
            actor=STAFF,
        )
    assert messages(refusal) == {
        "name": ["This customer has a tunnel of this name already. Choose another name."],
        "max_sessions": ["Ensure this value is greater than or equal to 1."],
        "tcp_ports": [
            "“0” is not a port. Write a whole number from 1 to 65535.",
            "“x” is not a port. Write a whole number from 1 to 65535.",
            "Port 22 is listed 2 times. List it once.",
            "Port 8000 is the HTTP port of every tunnel. Choose another port; the client can forward it to 8000.",
        ],
        "host_names": [
            "“a..b” is not a host name. Write one such as intranet.local.",
            "“c.local” is listed 2 times. List it once.",
        ],
    }
    assert Tunnel.objects.count() == 1


@pytest.mark.parametrize("port", ["-1", "65536", "1e3", "٢٢", "", "22.0", "9" * 5000, -1, 0, 70000])
def test_what_is_no_port_is_refused(prod: Tunnel, port: str | int) -> None:
    with pytest.raises(ValidationError) as refusal:
        tunnels.update_tunnel(tunnel=prod, tcp_ports=[port], actor=STAFF)
    assert list(messages(refusal)) == ["tcp_ports"]
    assert Tunnel.objects.get().generation == 1


def test_a_tunnel_exposes_no_more_than_one_frame_tells(prod: Tunnel) -> None:
    ports, names = range(10_000, 10_201), [f"h{number}.local" for number in range(201)]
    with pytest.raises(ValidationError) as refused:
        tunnels.update_tunnel(tunnel=prod, tcp_ports=ports, host_names=names, actor=STAFF)
    assert refused.value.message_dict == {
        "tcp_ports": ["A tunnel has 200 ports at most. Make another tunnel."],
        "host_names": ["A tunnel has 200 host names at most. Make another tunnel."],
    }
    tunnels.update_tunnel(tunnel=prod, tcp_ports=ports[:200], host_names=names[:200], actor=STAFF)


def test_the_first_and_the_last_port_are_ports(prod: Tunnel) -> None:
    tunnels.update_tunnel(tunnel=prod, tcp_ports=[65535, 1], actor=STAFF)
    assert listen_ports(prod) == {1: 20000, 8000: 8001, 65535: 65535}


def test_a_wrong_customer_is_refused_at_the_field(acmeco: Customer) -> None:
    with pytest.raises(ValidationError) as refusal:
        customers.create_customer(name="acmeco", contact_email="nobody", actor=STAFF)
    assert messages(refusal) == {
        "name": ["A customer of this name exists already. Choose another name."],
        "contact_email": ["Enter a valid email address."],
    }
    with pytest.raises(ValidationError) as refusal:
        customers.update_customer(customer=acmeco, contact_email="nobody", actor=STAFF)
    assert list(messages(refusal)) == ["contact_email"]


def test_a_tcp_port_listens_on_its_own_number_where_that_is_free(prod: Tunnel) -> None:
    other = tunnels.create_tunnel(customer=prod.customer, name="test", tcp_ports=[25060, 5432, 80], actor=STAFF)
    assert listen_ports(prod) == {25060: 25060, 8000: 8001}
    assert listen_ports(other) == {8000: 8002, 80: 20000, 5432: 5432, 25060: 20001}


def test_a_listen_port_never_is_that_of_the_portal_or_of_another_listener(acmeco: Customer, settings: Any) -> None:
    settings.MOORLINE_PORT = 9000
    settings.MOORLINE_HTTP_LISTEN_START = 8999
    first = tunnels.create_tunnel(customer=acmeco, name="a", tcp_ports=[9000, 9001], actor=STAFF)
    second = tunnels.create_tunnel(customer=acmeco, name="b", tcp_ports=[8999], actor=STAFF)
    assert listen_ports(first) == {8000: 8999, 9000: 20000, 9001: 9001}
    assert listen_ports(second) == {8000: 9002, 8999: 20001}


def test_a_port_that_stays_keeps_its_listen_port_and_one_that_goes_frees_it(prod: Tunnel) -> None:
    other = tunnels.create_tunnel(customer=prod.customer, name="test", tcp_ports=[25060], actor=STAFF)
    tunnels.update_tunnel(tunnel=prod, tcp_ports=[5432], actor=STAFF)
    tunnels.update_tunnel(tunnel=other, tcp_ports=[25060, 22], actor=STAFF)
    assert listen_ports(other) == {8000: 8002, 25060: 20000, 22: 20001}
    third = tunnels.create_tunnel(customer=prod.customer, name="third", tcp_ports=[25060], actor=STAFF)
    assert listen_ports(third)[25060] == 25060


def test_a_listen_port_that_was_taken_meanwhile_is_chosen_again(prod: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    from portal.services import ports

    chosen = iter([8001, 25060, 9999])
    monkeypatch.setattr(ports, "_choose_listen_port", lambda row, taken: next(chosen))
    (added,) = ports.add_ports(prod, {70: TunnelPort.Kind.TCP})
    assert added.listen_port == 9999


def test_writers_who_never_find_a_free_port_are_told_so(prod: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    from portal.services import ports

    monkeypatch.setattr(ports, "_choose_listen_port", lambda row, taken: 8001)
    with pytest.raises(ValidationError) as refusal:
        tunnels.update_tunnel(tunnel=prod, tcp_ports=[70], actor=STAFF)
    assert messages(refusal) == {"tcp_ports": ["Too many changes at once. Try again."]}


def test_a_token_is_kept_as_a_hash_and_shown_once(prod: Tunnel) -> None:
    token, plain_text = tokens.mint_token(tunnel=prod, name=" laptop ", actor=STAFF)
    assert re.fullmatch(r"mlt_[-_A-Za-z0-9]{43}", plain_text)
    kept = Token.objects.get()
    assert kept.hash == hashlib.sha256(plain_text.encode()).hexdigest()
    assert (kept.name, kept.prefix, kept.created_by) == ("laptop", plain_text[:10], "anna")
    everything = [Token.objects.values().get(), *Event.objects.values()]
    assert plain_text not in str(everything)
    assert tokens.mint_token(tunnel=prod, name="laptop", actor=STAFF)[1] != plain_text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"expires_at": timezone.now() - timedelta(seconds=1)}, "expires_at"),
    ],
)
def test_a_wrong_token_is_refused_at_the_field(prod: Tunnel, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        tokens.mint_token(**{"tunnel": prod, "name": "laptop", "actor": STAFF} | changes)
    assert list(messages(refusal)) == [field]
    assert not Token.objects.exists()


def test_a_token_is_revoked_once(prod: Tunnel, token: str) -> None:
    first = tokens.revoke_token(token=prod.tokens.get(), actor=STAFF).revoked_at
    assert tokens.revoke_token(token=prod.tokens.get(), actor=STAFF).revoked_at == first
    assert Event.objects.filter(verb="token.revoke").count() == 1


def test_the_trail_outlives_what_it_tells_of(prod: Tunnel, token: str) -> None:
    customers.delete_customer(customer=prod.customer, actor=STAFF)
    told = Event.objects.filter(customer_name="acmeco").values_list("verb", "tunnel_name", "customer", "tunnel")
    assert list(told) == [
        ("customer.delete", "", None, None),
        ("token.mint", "prod", None, None),
        ("tunnel.create", "prod", None, None),
        ("customer.create", "", None, None),
    ]
    assert Event.objects.first().details == {"tunnels": ["prod"]}


def test_an_event_is_neither_changed_nor_deleted(acmeco: Customer) -> None:
    event = Event.objects.get()
    event.actor = "nobody"
    with pytest.raises(TypeError, match="never changed"):
        event.save()
    with pytest.raises(TypeError, match="never deleted"):
        event.delete()
    assert Event.objects.get().actor == "staff"


@pytest.mark.parametrize(
    ("address", "kept"), [("::1", "::1"), ("", None), (None, None), ("unix:/run/x", None), ("192.0.2.4:80", None)]
)
def test_only_addresses_are_kept_as_addresses(db: None, address: str | None, kept: str | None) -> None:
    assert record_event(actor=Actor("x", address), verb="staff.create").source_address == kept


def test_an_admin_is_created_once(db: None) -> None:
    user, is_new = staff.create_admin(username="bert", password="correct horse battery", actor=STAFF)
    assert is_new
    assert user.is_superuser
    again, is_new = staff.create_admin(username="bert", password="another horse battery", actor=STAFF)
    assert not is_new
    assert again.check_password("correct horse battery")


PEER = {"namespaceSelector": {"matchLabels": {"team": "billing"}}}


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ("everyone", "Write a list of peers"),
        ([{}], "Peer 1 is not understood"),
        ([PEER, {"ipBlock": {"cidr": "10.0.0.0/8"}}], "Peer 2 is not understood"),
        ([{"podSelector": {"app": "x"}}], "The podSelector of peer 1 is no label selector"),
        ([{"podSelector": {"matchLabels": {"a b": "x"}}}], "is no label selector"),
        ([{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}], "is no label selector"),
        ([PEER] * 51, "List 50 peers at most"),
    ],
)
def test_access_that_kubernetes_would_not_take_is_refused(prod: Tunnel, access: Any, said: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        tunnels.update_tunnel(tunnel=prod, access=access, actor=STAFF)
    assert said in messages(refusal)["access"][0]


def test_who_may_connect_and_until_when_are_changes_like_others(prod: Tunnel) -> None:
    expires_at = timezone.now() + timedelta(days=1)
    expression = {"key": "a", "operator": "Exists"}
    access = [PEER, {"podSelector": {"matchExpressions": [expression]}, "namespaceSelector": {}}]
    changed = tunnels.update_tunnel(tunnel=prod, access=access, expires_at=expires_at, actor=STAFF)
    assert (changed.generation, changed.access, changed.expires_at) == (2, access, expires_at)
    assert tunnels.update_tunnel(tunnel=prod, actor=STAFF).expires_at == expires_at
    assert tunnels.update_tunnel(tunnel=prod, expires_at=None, access=[], actor=STAFF).expires_at is None
    assert Event.objects.first().details["access"] == {"from": access, "to": []}


@pytest.mark.parametrize("quota", ["many", {"services": 5}, {"services": "lots"}, {"Services!": "5"}])
def test_a_quota_that_kubernetes_would_not_take_is_refused(acmeco: Customer, quota: Any) -> None:
    with pytest.raises(ValidationError) as refusal:
        customers.update_customer(customer=acmeco, resource_quota=quota, actor=STAFF)
    assert "resource_quota" in messages(refusal)


def test_what_a_resource_asks_for_is_changed_by_the_resource_alone(acmeco: Customer) -> None:
    resource = tunnels.Resource("moorline.dev")
    made = tunnels.create_tunnel(customer=acmeco, name="gitops", tcp_ports=[1], resource=resource, actor=STAFF)
    for change in ({"tcp_ports": [2]}, {"access": [PEER]}, {"host_names": ["a"]}):
        with pytest.raises(ValidationError, match="made by a Tunnel resource"):
            tunnels.update_tunnel(tunnel=made, actor=STAFF, **change)
    for delete in (
        lambda: tunnels.delete_tunnel(tunnel=made, actor=STAFF),
        lambda: customers.delete_customer(customer=acmeco, actor=STAFF),
    ):
        with pytest.raises(ValidationError, match="kubectl"):
            delete()
    tunnels.disable_tunnel(tunnel=made, actor=STAFF)
    tunnels.update_tunnel(tunnel=made, max_sessions=2, actor=STAFF)
    tunnels.update_tunnel(tunnel=made, tcp_ports=[2], resource=resource, actor=STAFF)
    tunnels.delete_tunnel(tunnel=made, resource=resource, actor=STAFF)
    assert not Tunnel.objects.filter(pk=made.pk).exists()


def test_a_scoped_installation_serves_one_customer(db: None, settings: Any) -> None:
    settings.MOORLINE_TUNNELS_NAMESPACE = "acmeco"
    with pytest.raises(ValidationError) as refusal:
        customers.create_customer(name="globex", actor=STAFF)
    assert messages(refusal) == {
        "name": ["This installation serves the namespace acmeco alone. Name the customer acmeco."]
    }
    acmeco = customers.create_customer(name="acmeco", actor=STAFF)
    assert tunnels.create_tunnel(customer=acmeco, name="prod", actor=STAFF)


def test_the_namespace_of_moorline_itself_is_no_customers(db: None, settings: Any) -> None:
    settings.MOORLINE_TARGET, settings.MOORLINE_NAMESPACE = "kubernetes", "infra"
    with pytest.raises(ValidationError, match="namespace of Moorline itself"):
        customers.create_customer(name="infra", actor=STAFF)
    assert not Customer.objects.exists()
