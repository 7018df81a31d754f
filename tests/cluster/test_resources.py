"""What Tunnel resources ask for becomes rows, and what cannot be is refused with words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from threading import Event as Flag
from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from portal.cluster.resource import (
    allows_tunnels,
    check_namespace,
    is_told_of,
    make_refused_status,
    read_resource,
    refuse_mirror,
    sort_by_age,
)
from portal.cluster.secrets import ACTOR
from portal.models import (
    Customer,
    CustomerStatus,
    Event,
    Leftover,
    RevokedHash,
    Source,
    StaffDecision,
    Token,
    Tunnel,
    TunnelStatus,
)
from portal.services import tunnels
from portal.services.customers import create_customer, suspend_customer
from portal.services.events import record_event
from portal.services.resources import (
    ResourceRefused,
    TunnelResource,
    drop_resource,
    find_tunnel,
    is_being_removed,
    list_taken,
    take_resource,
)
from portal.services.tokens import adopt_token, mint_token, revoke_token
from portal.services.tunnels import create_tunnel, delete_tunnel, disable_tunnel, enable_tunnel, update_tunnel
from tests.conftest import STAFF

pytestmark = pytest.mark.django_db

MOORLINE, INLETS = "moorline.dev", "uplink.inlets.dev"
GROUPS = (MOORLINE, INLETS)
PEER = {"namespaceSelector": {"matchLabels": {"team": "billing"}}}
PROD = TunnelResource(group=MOORLINE, namespace="acmeco", name="prod", generation=1, tcp_ports=(25060,))


def body_of(spec: Any, **metadata: Any) -> dict[str, Any]:
    names = {"name": "prod", "namespace": "acmeco", "generation": 3}
    return {"apiVersion": "moorline.dev/v1alpha1", "kind": "Tunnel", "metadata": names | metadata, "spec": spec}


def refuse(resource: TunnelResource, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ResourceRefused) as raised:
        take_resource(resource=resource, **arguments)
    return raised.value.reason, raised.value.message


def state(name: str = "prod") -> tuple[Any, ...]:
    """Whatever a look that changes nothing leaves as it is."""
    tunnel = Tunnel.objects.get(name=name)
    status = TunnelStatus.objects.get(tunnel=tunnel)
    return tunnel.generation, status.revision, status.refusal, Event.objects.count(), list_taken(GROUPS)


def test_every_field_of_a_resource_is_read() -> None:
    spec = {
        "tcpPorts": [25060, 22],
        "upstreamDomains": ["intranet.local"],
        "tokenRef": {"name": "prod-token", "namespace": "acmeco", "key": "secret"},
        "access": {"from": [PEER]},
        "expiresAt": "2030-01-31T13:00:00+01:00",
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"disk": "ssd"},
        "env": [{"name": "A", "value": "B"}],
        "licenseRef": {"name": "license", "namespace": "other"},
    }
    assert read_resource(body_of(spec)) == TunnelResource(
        group=MOORLINE,
        namespace="acmeco",
        name="prod",
        generation=3,
        tcp_ports=(25060, 22),
        host_names=("intranet.local",),
        access=[PEER],
        expires_at=datetime(2030, 1, 31, 12, tzinfo=UTC),
        token_secret="prod-token",
        token_key="secret",
        token_namespace="acmeco",
    )
    assert read_resource(body_of({})) == TunnelResource(MOORLINE, "acmeco", "prod", 3)
    assert read_resource(body_of({"tokenRef": {"name": "t"}})).token_key == "token"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"tcpPorts": "25060, 22"}, "spec.tcpPorts: “25060, 22” is not a port. Write a whole number from 1 to 65535."),
        ({"tcpPorts": [{"port": 1}, True]}, "spec.tcpPorts: “{'port': 1}” is not a port."),
        ({"tcpPorts": [22, 22]}, "spec.tcpPorts: Port 22 is listed 2 times. List it once."),
        ({"upstreamDomains": [7, "Ä"]}, "spec.upstreamDomains: “ä” has letters outside ASCII."),
        ({"access": [PEER]}, "spec.access: this is no object."),
        ({"access": {"from": PEER}}, "spec.access.from: Write a list of peers, such as"),
        ({"access": {"from": [{}]}}, "spec.access.from: Peer 1 is not understood."),
        ({"tokenRef": "prod-token"}, "spec.tokenRef: this is no object."),
        ({"tokenRef": {"name": "../token"}}, "spec.tokenRef.name: “../token” is no name of a Secret."),
        ({"tokenRef": {"name": "t", "key": "a/b"}}, "spec.tokenRef.key: “a/b” is no key of a Secret."),
        ({"expiresAt": "tomorrow"}, "spec.expiresAt: “tomorrow” is no time. Write one such as 2030-01-31T12:00:00Z."),
        ({"expiresAt": "2030-01-31T12:00:00"}, "spec.expiresAt: “2030-01-31T12:00:00” is no time."),
        ({"expiresAt": "9999-12-31T23:59:59-01:00"}, "spec.expiresAt: “9999-12-31T23:59:59-01:00” is out of range."),
        ({"expiresAt": "0001-01-01T00:00:00+01:00"}, "spec.expiresAt: “0001-01-01T00:00:00+01:00” is out of range."),
    ],
)
def test_a_spec_that_no_schema_has_checked_is_refused_at_the_field(spec: Any, message: str) -> None:
    reason, said = refuse(read_resource(body_of(spec)))
    assert (reason, said[: len(message)]) == ("InvalidSpec", message)
    assert not Customer.objects.exists()


def test_a_spec_that_is_no_object_asks_for_nothing() -> None:
    assert read_resource(body_of(None)) == read_resource(body_of([])) == TunnelResource(MOORLINE, "acmeco", "prod", 3)


def test_a_resource_makes_its_customer_and_its_tunnel() -> None:
    take_resource(resource=read_resource(body_of({"tcpPorts": [25060], "upstreamDomains": ["A.local"]})))
    customer = Customer.objects.get()
    assert (customer.name, customer.source) == ("acmeco", Source.RESOURCE)
    tunnel = Tunnel.objects.get()
    assert (tunnel.source, tunnel.resource_group, tunnel.generation) == (Source.RESOURCE, MOORLINE, 1)
    wanted = TunnelResource(MOORLINE, "acmeco", "prod", 3, tcp_ports=(25060,), host_names=("a.local",))
    assert list_taken([MOORLINE]) == {("acmeco", "prod"): (wanted, False)}
    assert list_taken([INLETS]) == {}
    events = Event.objects.order_by("pk").values_list("verb", "actor")
    assert list(events) == [(verb, "Tunnel resource (moorline.dev)") for verb in ("customer.create", "tunnel.create")]


def test_a_customer_of_the_portal_gets_the_tunnel() -> None:
    create_customer(name="acmeco", display_name="Acme", actor=STAFF)
    take_resource(resource=PROD)
    assert list(Customer.objects.values_list("name", "source")) == [("acmeco", Source.PORTAL)]
    assert drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    assert Customer.objects.exists()


def test_looking_again_writes_nothing() -> None:
    resource = replace(
        PROD,
        tcp_ports=(443, 22),
        host_names=("b.local", "A.local"),
        access=[PEER],
        expires_at=datetime(2030, 1, 31, tzinfo=UTC),
        token_secret="t",
        token_key="token",
    )
    take_resource(resource=resource)
    before = state()
    take_resource(resource=resource)
    assert state() == before


def test_a_change_of_the_resource_changes_the_row() -> None:
    take_resource(resource=PROD)
    changed = replace(
        PROD,
        generation=2,
        tcp_ports=(5432,),
        host_names=("a.local",),
        access=[PEER],
        expires_at=datetime(2030, 1, 31, tzinfo=UTC),
        token_secret="prod-token",
        token_key="token",
    )
    take_resource(resource=changed)
    assert list_taken([MOORLINE]) == {("acmeco", "prod"): (changed, False)}
    assert Tunnel.objects.get().generation == 2
    take_resource(resource=replace(PROD, generation=3))
    assert list_taken([MOORLINE]) == {("acmeco", "prod"): (replace(PROD, generation=3), False)}


def test_a_new_version_that_asks_for_the_same_is_told_by_the_reconciler_alone() -> None:
    take_resource(resource=PROD)
    generation, revision, refusal, events, _ = state()
    take_resource(resource=replace(PROD, generation=2))
    assert state()[:4] == (generation, revision + 1, refusal, events)


def test_what_staff_decide_stays() -> None:
    tunnel = take_resource(resource=PROD)
    disable_tunnel(tunnel=tunnel, actor=STAFF)
    take_resource(resource=replace(PROD, generation=2, tcp_ports=(1, 2)))
    assert not Tunnel.objects.get().enabled


def check(**labels: str) -> None:
    check_namespace({"metadata": {"name": "acmeco", "labels": labels}}, "acmeco", "moorline", inlets=False)


def test_a_namespace_has_to_be_labelled_for_a_new_tunnel() -> None:
    reason, message = refuse(PROD, check_namespace=check)
    assert reason == "NamespaceNotLabelled"
    assert message.endswith("kubectl label namespace acmeco moorline.dev/uplink=1")
    assert not Customer.objects.exists()
    take_resource(resource=PROD, check_namespace=lambda: check(**{"moorline.dev/uplink": "1"}))
    # The reconciler keeps the label of a customer's namespace; one that is missing for a moment ends no tunnel.
    take_resource(resource=replace(PROD, generation=2, tcp_ports=(1,)), check_namespace=check)
    assert list_taken(GROUPS)["acmeco", "prod"][0].tcp_ports == (1,)


def test_a_namespace_of_another_installation_is_left_to_it() -> None:
    labels = {"moorline.dev/uplink": "1", "moorline.dev/installation": "other"}
    assert refuse(PROD, check_namespace=lambda: check(**labels)) == (
        "NameTaken",
        "The namespace acmeco belongs to the installation other of Moorline, and moorline makes no tunnels in it. Use "
        "another namespace, or remove its label moorline.dev/installation.",
    )
    assert not Customer.objects.exists()
    take_resource(resource=PROD, check_namespace=lambda: check(**labels | {"moorline.dev/installation": "moorline"}))


def test_who_tells_of_a_resource_is_known_by_what_is_told() -> None:
    refusal = make_refused_status(body_of({}), ResourceRefused("NotTaken", "No."), timezone.now())
    assert not is_told_of(body_of({}))
    assert not is_told_of(body_of({}) | {"status": refusal})
    assert is_told_of(body_of({}) | {"status": {"conditions": [{"type": "Accepted"}, {"type": "Connected"}]}})


def test_what_is_labelled_as_a_mirror_and_mirrors_nothing_is_told_how_to_be_taken() -> None:
    refused = refuse_mirror(body_of({}), "moorline")
    assert (refused.reason, refused.message) == (
        "NotTaken",
        "The label moorline.dev/managed-by says that this resource shows a tunnel of the portal, and there is none of "
        "this name. Remove the label to have the resource taken: kubectl label tunnels.moorline.dev prod -n acmeco "
        "moorline.dev/managed-by-",
    )


def test_a_tunnel_is_being_removed_until_nothing_is_left_over() -> None:
    tunnel = create_tunnel(customer=create_customer(name="acmeco", actor=STAFF), name="prod", actor=STAFF)
    assert not is_being_removed("acmeco", "prod")
    delete_tunnel(tunnel=tunnel, actor=STAFF)
    assert is_being_removed("acmeco", "prod")
    assert not is_being_removed("acmeco", "test")
    Leftover.objects.all().delete()
    assert not is_being_removed("acmeco", "prod")


@pytest.mark.parametrize("label", ["moorline.dev/uplink", "inlets.dev/uplink"])
def test_labels_that_allow_tunnels(label: str) -> None:
    namespace = {"metadata": {"name": "acmeco", "labels": {label: "1"}}}
    assert allows_tunnels(namespace, inlets=True)
    assert allows_tunnels(namespace, inlets=False) is (label == "moorline.dev/uplink")
    assert not allows_tunnels({"metadata": {"labels": {label: "0"}}}, inlets=True)
    assert not allows_tunnels({"metadata": {}}, inlets=True)
    assert not allows_tunnels(None, inlets=True)


def test_an_installation_for_one_namespace_needs_no_label_and_takes_no_other(settings: LazySettings) -> None:
    settings.MOORLINE_TUNNELS_NAMESPACE = "acmeco"
    reason, message = refuse(replace(PROD, namespace="other"))
    assert (reason, message) == (
        "OutsideScope",
        "This installation serves the namespace acmeco alone. Move the resource there.",
    )
    take_resource(resource=PROD, check_namespace=check)
    assert Tunnel.objects.count() == 1


@pytest.mark.parametrize("namespace", ["default", "kube-system", "com"])
def test_some_namespaces_are_nobodys(namespace: str) -> None:
    reason, message = refuse(replace(PROD, namespace=namespace))
    assert reason == "NamespaceNotAllowed"
    assert message.startswith(f"The namespace {namespace} cannot be a customer's: “{namespace}” is reserved.")


def test_the_namespace_of_moorline_itself_is_nobodys(settings: LazySettings) -> None:
    settings.MOORLINE_TARGET = "kubernetes"
    settings.MOORLINE_NAMESPACE = "infra"
    assert refuse(replace(PROD, namespace="infra")) == (
        "NamespaceNotAllowed",
        "The namespace infra cannot be a customer's: infra is the namespace of Moorline itself. Choose another name.",
    )


def test_a_reserved_name_is_refused() -> None:
    assert refuse(replace(PROD, name="localhost")) == (
        "InvalidSpec",
        "metadata.name: “localhost” is reserved. Choose another name.",
    )
    # The customer was made for a tunnel that cannot be, so it was not made.
    assert not Customer.objects.exists()
    assert not Leftover.objects.exists()


def test_a_secret_of_another_namespace_is_refused() -> None:
    resource = replace(PROD, token_secret="t", token_key="token", token_namespace="kube-system")
    assert refuse(resource) == (
        "TokenElsewhere",
        "spec.tokenRef.namespace is kube-system. Put the Secret into acmeco, the namespace of this resource, and "
        "leave tokenRef.namespace out.",
    )
    take_resource(resource=replace(resource, token_namespace="acmeco"))
    assert Tunnel.objects.get().token_secret == "t"


def test_a_tunnel_of_the_portal_keeps_its_name() -> None:
    tunnel = create_tunnel(customer=create_customer(name="acmeco", actor=STAFF), name="prod", actor=STAFF)
    assert refuse(PROD) == (
        "NameTaken",
        "The portal has a tunnel acmeco/prod. Give this resource another name, or delete the tunnel in the portal.",
    )
    assert not drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    assert TunnelStatus.objects.get(tunnel=tunnel).refusal == {}
    assert list_taken(GROUPS) == {}


def test_a_refused_change_leaves_the_row_and_says_why_until_it_is_mended() -> None:
    take_resource(resource=PROD)
    wrong = replace(PROD, generation=2, tcp_ports=(22, 8000))
    message = (
        "spec.tcpPorts: Port 8000 is the HTTP port of every tunnel. Choose another port; the client can forward it to "
        "8000."
    )
    with pytest.raises(ResourceRefused) as raised:
        take_resource(resource=wrong)
    assert raised.value.has_row
    generation, revision, refusal, events, taken = state()
    assert (generation, revision, events) == (1, 2, 2)
    assert refusal == {"reason": "InvalidSpec", "message": message}
    assert taken == {("acmeco", "prod"): (replace(PROD, generation=2), True)}
    assert refuse(wrong) == ("InvalidSpec", message)
    assert state() == (generation, revision, refusal, events, taken)
    take_resource(resource=replace(PROD, generation=3))
    assert state()[:3] == (1, 3, {})


def test_the_other_group_takes_a_name_only_when_the_first_lets_go() -> None:
    take_resource(resource=replace(PROD, group=INLETS))
    mint_token(tunnel=Tunnel.objects.get(), name="client", actor=STAFF)
    assert refuse(PROD) == (
        "NameTaken",
        "The resource prod of uplink.inlets.dev is this tunnel already. Delete that one, and this one takes its place: "
        "kubectl delete tunnels.uplink.inlets.dev prod -n acmeco",
    )
    assert TunnelStatus.objects.get().refusal == {}
    pk = Tunnel.objects.get().pk
    take_resource(resource=PROD, takes_over=True)
    tunnel = Tunnel.objects.get()
    assert (tunnel.pk, tunnel.resource_group, tunnel.generation) == (pk, MOORLINE, 1)
    assert Token.objects.filter(tunnel=tunnel, revoked_at=None).count() == 1
    assert Event.objects.order_by("-pk").values_list("verb", "details").first() == (
        "tunnel.update",
        {"resource_group": {"from": INLETS, "to": MOORLINE}},
    )
    assert not drop_resource(namespace="acmeco", name="prod", groups=[INLETS])


def test_what_cannot_take_over_says_so_in_its_own_status() -> None:
    take_resource(resource=replace(PROD, group=INLETS))
    with pytest.raises(ResourceRefused) as raised:
        take_resource(resource=replace(PROD, tcp_ports=(8000,)), takes_over=True)
    assert not raised.value.has_row
    assert TunnelStatus.objects.get().refusal == {}


def test_the_last_resource_takes_the_customer_along() -> None:
    take_resource(resource=PROD)
    take_resource(resource=replace(PROD, name="test"))
    assert drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    assert Customer.objects.exists()
    assert not drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    assert drop_resource(namespace="acmeco", name="test", groups=GROUPS)
    assert not Customer.objects.exists()
    left = set(Leftover.objects.values_list("customer_name", "tunnel_name"))
    assert left == {("acmeco", "prod"), ("acmeco", "test"), ("acmeco", "")}
    assert find_tunnel("acmeco", "prod") is None


def test_deleting_all_tunnels_does_not_lift_a_suspension() -> None:
    take_resource(resource=PROD)
    suspend_customer(customer=Customer.objects.get(), actor=STAFF)
    assert drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    take_resource(resource=PROD)
    assert Customer.objects.get().suspended


def test_a_namespace_that_resources_were_in_is_nobodys_to_delete() -> None:
    take_resource(resource=PROD)
    CustomerStatus.objects.update(made_namespace=True)
    assert drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    assert list(Leftover.objects.filter(tunnel_name="").values_list("made_namespace", flat=True)) == [False]


def test_deleting_a_tunnel_does_not_undo_what_staff_decided_about_it() -> None:
    tunnel = take_resource(resource=PROD)
    disable_tunnel(tunnel=tunnel, actor=STAFF)
    update_tunnel(tunnel=tunnel, max_sessions=2, max_streams=3, actor=STAFF)
    drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    assert not Customer.objects.exists()
    take_resource(resource=replace(PROD, name="other"))
    tunnel = take_resource(resource=PROD)
    assert (tunnel.enabled, tunnel.max_sessions, tunnel.max_streams) == (False, 2, 3)
    assert Tunnel.objects.get(name="other").enabled
    # What staff decide now is what counts the next time.
    assert not StaffDecision.objects.exists()
    enable_tunnel(tunnel=tunnel, actor=STAFF)
    drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    tunnel = take_resource(resource=PROD)
    assert (tunnel.enabled, tunnel.max_sessions, tunnel.max_streams) == (True, 2, 3)


def test_nothing_is_kept_of_a_tunnel_that_staff_left_alone() -> None:
    mint_token(tunnel=take_resource(resource=PROD), name="client", actor=STAFF)
    drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    assert not StaffDecision.objects.exists()
    assert not RevokedHash.objects.exists()


@pytest.mark.parametrize("name", ["prod", "other"])
def test_a_revoked_token_opens_no_tunnel_again(name: str) -> None:
    def adopt(tunnel: Tunnel, plain_text: str) -> Token:
        return adopt_token(tunnel=tunnel, plain_text=plain_text, secret="mine", actor=ACTOR)

    leaked, kept = "leaked-0123456789abcdef0123", "kept-0123456789abcdef012345"
    tunnel = take_resource(resource=PROD)
    revoke_token(token=adopt(tunnel, leaked), actor=STAFF)
    adopt(tunnel, kept)
    drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    tunnel = take_resource(resource=replace(PROD, name=name))
    with pytest.raises(ValidationError, match="was revoked"):
        adopt(tunnel, leaked)
    assert not Token.objects.exists()
    assert adopt(tunnel, kept).revoked_at is None


def test_an_older_look_changes_nothing() -> None:
    first = replace(PROD, uid="a", generation=2)
    take_resource(resource=first)
    take_resource(resource=replace(first, generation=3, tcp_ports=(5432,)))
    before = state()
    take_resource(resource=first)
    assert state() == before
    take_resource(resource=replace(first, mistake="spec: this is no object."))
    assert state() == before
    # Generations of another object of the name begin anew.
    anew = replace(first, uid="b", generation=1)
    take_resource(resource=anew)
    assert list_taken(GROUPS)["acmeco", "prod"] == (anew, False)


def test_a_tunnel_that_another_resource_asks_for_meanwhile_stays() -> None:
    take_resource(resource=replace(PROD, uid="b"))
    assert not drop_resource(namespace="acmeco", name="prod", groups=GROUPS, uid="a")
    assert Tunnel.objects.exists()
    assert drop_resource(namespace="acmeco", name="prod", groups=GROUPS, uid="b")


def wait_until_somebody_waits() -> None:
    """Wait until PostgreSQL has somebody wait for a lock."""
    ends = monotonic() + 10
    waiting = 0
    with connection.cursor() as cursor:
        while not waiting:
            assert monotonic() < ends
            sleep(0.01)
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            (waiting,) = cursor.fetchone()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("write", ["take", "drop"])
def test_suspending_a_customer_waits_for_the_watch_and_the_watch_for_it(
    write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    take_resource(resource=PROD)
    customer = Customer.objects.get()
    locked = Flag()
    errors: list[Exception] = []

    def record_late(**arguments: Any) -> Event:
        """Let the other one in while the tunnel is locked, and before the event locks the customer it speaks of."""
        locked.set()
        wait_until_somebody_waits()
        return record_event(**arguments)

    def suspend() -> None:
        try:
            assert locked.wait(10)
            suspend_customer(customer=customer, actor=STAFF)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    monkeypatch.setattr(tunnels, "record_event", record_late)
    other = Thread(target=suspend)
    other.start()
    try:
        if write == "take":
            take_resource(resource=replace(PROD, generation=2, tcp_ports=(5432,)))
        else:
            drop_resource(namespace="acmeco", name="prod", groups=GROUPS)
    finally:
        other.join(20)
    # Who suspends a customer that went with its last tunnel finds none.
    assert [type(error) for error in errors] == ([] if write == "take" else [Customer.DoesNotExist])


def test_the_status_of_a_refused_resource() -> None:
    refused = ResourceRefused("NameTaken", "Give it another name.")
    moment = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    condition = {
        "type": "Accepted",
        "status": "False",
        "reason": "NameTaken",
        "message": "Give it another name.",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-05-04T03:02:01Z",
    }
    status = make_refused_status(body_of({}), refused, moment)
    assert status == {"observedGeneration": 3, "sessions": 0, "conditions": [condition]}
    # What goes on being refused keeps the time when that began; what was accepted begins now.
    assert make_refused_status(body_of({}) | {"status": status}, refused, timezone.now()) == status
    before = {"conditions": [{"type": "Accepted", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}
    assert make_refused_status(body_of({}) | {"status": before}, refused, moment) == status


def test_the_older_resource_is_first_and_ours_among_equals() -> None:
    ours = body_of({}, creationTimestamp="2026-01-01T00:00:02Z")
    theirs = ours | {"apiVersion": "uplink.inlets.dev/v1alpha1"}
    assert sort_by_age([theirs, ours]) == [ours, theirs]
    older = theirs | {"metadata": ours["metadata"] | {"creationTimestamp": "2026-01-01T00:00:01Z"}}
    assert sort_by_age([ours, older]) == [older, ours]
