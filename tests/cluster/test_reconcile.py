"""The reconciler against a real API server, with just the rights that the chart gives a worker."""

from __future__ import annotations

import json
import select
import time
from typing import Any

import pytest
from django.conf import LazySettings
from django.db.models import F

from portal.cluster import repair
from portal.cluster.reconcile import Tally, reconcile_due
from portal.cluster.target import KubernetesTarget
from portal.models import Customer, CustomerStatus, Leftover, Tunnel, TunnelStatus
from portal.services import customers, gateways, sessions, tunnels, work
from tests.cluster.apiserver import ApiServer
from tests.cluster.installation import WORKER, connect_client, start_gateway
from tests.conftest import STAFF

pytestmark = [pytest.mark.api, pytest.mark.django_db]


@pytest.fixture
def acmeco(cluster: ApiServer) -> Customer:
    return customers.create_customer(name=cluster.make_name("acmeco"), actor=STAFF)


@pytest.fixture
def prod(acmeco: Customer) -> Tunnel:
    return tunnels.create_tunnel(customer=acmeco, name="prod", tcp_ports=[25060], actor=STAFF)


def reconcile(target: KubernetesTarget) -> Tally:
    tally = reconcile_due(target)
    assert not tally.problems, tally.problems
    return tally


def keep_reconciling(target: KubernetesTarget) -> None:
    """Reconcile as beat does, until nothing is left to do; how long a retry waits is not waited for."""
    ends = time.monotonic() + 20
    while TunnelStatus.objects.exclude(revision=F("applied_revision")).exists() or Leftover.objects.exists():
        assert time.monotonic() < ends, list(TunnelStatus.objects.values())
        for rows in (TunnelStatus, Leftover, CustomerStatus):
            rows.objects.update(retry_at=None)
        reconcile_due(target)


def conditions(tunnel: Tunnel) -> dict[str, tuple[str, str]]:
    found = TunnelStatus.objects.get(tunnel=tunnel).conditions
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in found}


def message(tunnel: Tunnel, kind: str) -> str:
    found = TunnelStatus.objects.get(tunnel=tunnel).conditions
    return next(str(condition["message"]) for condition in found if condition["type"] == kind)


def service_ports(cluster: ApiServer, namespace: str, name: str = "prod") -> dict[str, tuple[int, int]]:
    ports = cluster.read("service", name, "-n", namespace)["spec"]["ports"]
    return {port["name"]: (port["port"], port["targetPort"]) for port in ports}


def addresses(cluster: ApiServer, namespace: str, name: str = "prod-moorline") -> list[str]:
    endpoints = cluster.read("endpointslice", name, "-n", namespace).get("endpoints") or []
    return sorted(endpoint["addresses"][0] for endpoint in endpoints)


def names_of(cluster: ApiServer, kind: str, namespace: str) -> list[str]:
    return sorted(item["metadata"]["name"] for item in cluster.read(kind, "-n", namespace)["items"])


def test_a_tunnel_becomes_a_namespace_a_service_and_an_empty_slice(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    reconcile(target)
    namespace = cluster.read("namespace", prod.customer.name)
    assert namespace["metadata"]["labels"]["moorline.dev/uplink"] == "1"
    assert service_ports(cluster, prod.customer.name) == {"http": (8000, 20000), "tcp-25060": (25060, 20001)}
    assert addresses(cluster, prod.customer.name) == []
    assert conditions(prod) == {
        "Accepted": ("True", "Accepted"),
        "Provisioned": ("True", "Provisioned"),
        "Connected": ("False", "NoClient"),
        "Degraded": ("False", "AsDesired"),
    }
    assert TunnelStatus.objects.get(tunnel=prod).observed_generation == prod.generation


def test_endpoints_are_the_gateways_that_hold_sessions(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    first, second = start_gateway("gateway-0", "10.9.0.1"), start_gateway("gateway-1", "10.9.0.2")
    session = connect_client(prod, first)
    reconcile(target)
    assert addresses(cluster, prod.customer.name) == ["10.9.0.1"]
    other = connect_client(prod, second)
    reconcile(target)
    assert addresses(cluster, prod.customer.name) == ["10.9.0.1", "10.9.0.2"]
    assert message(prod, "Connected") == "The client has 2 sessions, answered by 2 gateways."
    gateways.drain_gateway(name="gateway-0")
    reconcile(target)
    assert addresses(cluster, prod.customer.name) == ["10.9.0.2"]
    for one in (session, other):
        sessions.close_session(session_id=one.pk, code="LOST")
    reconcile(target)
    assert addresses(cluster, prod.customer.name) == []
    assert conditions(prod)["Connected"] == ("False", "NoClient")


def test_a_gateway_that_stops_is_better_than_none(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    connect_client(prod, start_gateway("gateway-0", "10.9.0.1"))
    gateways.drain_gateway(name="gateway-0")
    reconcile(target)
    assert addresses(cluster, prod.customer.name) == ["10.9.0.1"]


def test_ports_are_renamed_and_gone_ones_pruned(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    reconcile(target)
    tunnels.update_tunnel(tunnel=prod, tcp_ports=[5432, 22], host_names=["shop.local"], actor=STAFF)
    reconcile(target)
    assert service_ports(cluster, prod.customer.name) == {
        "http": (8000, 20000),
        "tcp-22": (22, 20002),  # 20001 was given back a moment ago
        "tcp-5432": (5432, 20003),
    }
    assert service_ports(cluster, prod.customer.name, "shop-local") == {"http": (8000, 20000)}
    slice_ports = cluster.read("endpointslice", "prod-moorline", "-n", prod.customer.name)["ports"]
    assert {port["name"]: port["port"] for port in slice_ports} == {"http": 20000, "tcp-22": 20002, "tcp-5432": 20003}
    tunnels.update_tunnel(tunnel=prod, host_names=[], actor=STAFF)
    reconcile(target)
    assert names_of(cluster, "services", prod.customer.name) == ["prod"]
    assert names_of(cluster, "endpointslices", prod.customer.name) == ["prod-moorline"]


def test_what_is_as_desired_is_not_written(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    connect_client(prod, start_gateway("gateway-0", "10.9.0.1"))
    tunnels.update_tunnel(tunnel=prod, access=[{"podSelector": {"matchLabels": {"a": "b"}}}], actor=STAFF)
    reconcile(target)
    work.touch_tunnels([prod.pk])
    work.touch_customers([prod.customer_id])
    mark = cluster.mark()
    assert reconcile(target).written == 0
    assert repair.find_drift(target) == repair.Drift()
    asked = cluster.count_requests(mark, user=WORKER)
    assert asked
    assert {verb for verb, _ in asked} <= {"get", "list"}


def test_a_deleted_tunnel_leaves_nothing(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    tunnels.update_tunnel(
        tunnel=prod, host_names=["shop"], access=[{"podSelector": {"matchLabels": {"a": "b"}}}], actor=STAFF
    )
    reconcile(target)
    tunnels.delete_tunnel(tunnel=prod, actor=STAFF)
    reconcile(target)
    namespace = prod.customer.name
    for kind in ("services", "endpointslices", "tunnels.moorline.dev"):
        assert names_of(cluster, kind, namespace) == []
    assert names_of(cluster, "networkpolicies", target.installation.namespace) == ["moorline-tunnels"]
    assert not Leftover.objects.exists()


@pytest.mark.parametrize("is_ours", [True, False])
def test_only_a_namespace_that_was_made_is_deleted(
    cluster: ApiServer, target: KubernetesTarget, acmeco: Customer, is_ours: bool
) -> None:
    if not is_ours:
        cluster.kubectl("create", "namespace", acmeco.name)
    reconcile(target)
    assert cluster.read("namespace", acmeco.name)["metadata"]["labels"]["moorline.dev/customer"] == acmeco.name
    customers.delete_customer(customer=acmeco, actor=STAFF)
    reconcile(target)
    metadata = cluster.read("namespace", acmeco.name)["metadata"]
    # No controller runs here, so a deleted namespace stays in this state.
    assert ("deletionTimestamp" in metadata) is is_ours
    assert is_ours or not [label for label in metadata["labels"] if label.startswith("moorline.dev/")]


def test_a_service_edited_by_hand_is_restored(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    reconcile(target)
    namespace = prod.customer.name
    before = service_ports(cluster, namespace)
    patch = {
        "metadata": {"labels": {"moorline.dev/tunnel": None}},
        "spec": {
            "selector": {"app": "else"},
            "ports": [{"name": "http", "port": 8000, "targetPort": 1}, {"name": "more", "port": 9}],
        },
    }
    cluster.kubectl("patch", "service", "prod", "-n", namespace, "--type=merge", "-p", json.dumps(patch))
    assert repair.find_drift(target).tunnels == 1
    reconcile(target)
    assert service_ports(cluster, namespace) == before
    assert "selector" not in cluster.read("service", "prod", "-n", namespace)["spec"]
    cluster.kubectl("delete", "endpointslice", "prod-moorline", "-n", namespace)
    assert repair.find_drift(target).tunnels == 1
    reconcile(target)
    assert addresses(cluster, namespace) == []
    assert repair.find_drift(target) == repair.Drift()


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "replace", "path": "/spec/ports/1/port", "value": 9999}],
        [{"op": "replace", "path": "/spec/ports/1/name", "value": "other"}],
        [{"op": "replace", "path": "/spec/type", "value": "NodePort"}],
    ],
)
def test_a_port_changed_by_hand_is_restored(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel, patch: list[dict[str, Any]]
) -> None:
    reconcile(target)
    before = service_ports(cluster, prod.customer.name)
    cluster.kubectl("patch", "service", "prod", "-n", prod.customer.name, "--type=json", "-p", json.dumps(patch))
    assert repair.find_drift(target).tunnels == 1
    reconcile(target)
    assert service_ports(cluster, prod.customer.name) == before
    assert repair.find_drift(target) == repair.Drift()


def test_a_foreign_service_is_left_alone_and_told_of(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    namespace = prod.customer.name
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("create", "service", "clusterip", "prod", "-n", namespace, "--tcp=80:80")
    before = cluster.read("service", "prod", "-n", namespace)
    tally = reconcile_due(target)
    assert [problem.reason for problem in tally.problems] == ["NameTaken"]
    assert cluster.read("service", "prod", "-n", namespace) == before
    assert conditions(prod)["Provisioned"] == ("False", "NameTaken")
    assert message(prod, "Provisioned") == (
        f"Service {namespace}/prod exists and is not Moorline's. Rename or delete it, or give the tunnel another name."
    )
    cluster.kubectl("delete", "service", "prod", "-n", namespace)
    work.touch_tunnels([prod.pk])
    reconcile(target)
    assert conditions(prod)["Provisioned"] == ("True", "Provisioned")


def test_objects_without_a_row_are_found_and_removed(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    reconcile(target)
    namespace = prod.customer.name
    Tunnel.objects.filter(pk=prod.pk).delete()  # as when an older database was brought back
    assert repair.find_drift(target).leftovers == 1
    reconcile(target)
    assert names_of(cluster, "services", namespace) == []
    assert names_of(cluster, "tunnels.moorline.dev", namespace) == []


def test_quota_and_policy_of_a_customer_come_and_go(
    cluster: ApiServer, target: KubernetesTarget, acmeco: Customer
) -> None:
    customers.update_customer(customer=acmeco, resource_quota={"count/services": "9"}, isolated=True, actor=STAFF)
    reconcile(target)
    assert cluster.read("resourcequota", "moorline", "-n", acmeco.name)["spec"] == {"hard": {"count/services": "9"}}
    assert names_of(cluster, "networkpolicies", acmeco.name) == ["moorline"]
    cluster.kubectl("delete", "networkpolicy", "moorline", "-n", acmeco.name)
    assert repair.find_drift(target).customers == 1
    reconcile(target)
    assert names_of(cluster, "networkpolicies", acmeco.name) == ["moorline"]
    customers.update_customer(customer=acmeco, resource_quota={"count/services": "8"}, actor=STAFF)
    reconcile(target)
    assert cluster.read("resourcequota", "moorline", "-n", acmeco.name)["spec"] == {"hard": {"count/services": "8"}}
    customers.update_customer(customer=acmeco, resource_quota={}, isolated=False, actor=STAFF)
    reconcile(target)
    assert names_of(cluster, "resourcequotas", acmeco.name) == []
    assert names_of(cluster, "networkpolicies", acmeco.name) == []


def test_a_restricted_tunnel_has_a_policy_and_leaves_the_open_ranges(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    reconcile(target)
    peer = {"namespaceSelector": {"matchLabels": {"team": "billing"}}}
    tunnels.update_tunnel(tunnel=prod, access=[peer], actor=STAFF)
    reconcile(target)
    gateways_namespace = target.installation.namespace
    policy = cluster.read("networkpolicy", f"moorline-{prod.customer.name}.prod", "-n", gateways_namespace)["spec"]
    assert policy["ingress"][0]["from"] == [peer]
    assert [port["port"] for port in policy["ingress"][0]["ports"]] == [20000, 20001]
    ranges = cluster.read("networkpolicy", "moorline-tunnels", "-n", gateways_namespace)["spec"]["ingress"][0]["ports"]
    assert [(one["port"], one["endPort"]) for one in ranges] == [(20002, 20099)]


def test_a_mirror_shows_the_tunnel_and_its_status(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    reconcile(target)
    mirror = cluster.read("tunnels.moorline.dev", "prod", "-n", prod.customer.name)
    assert mirror["spec"] == {"tcpPorts": [25060]}
    assert mirror["metadata"]["labels"]["moorline.dev/managed-by"] == "portal"
    assert {one["type"]: one["status"] for one in mirror["status"]["conditions"]}["Provisioned"] == "True"
    patch: dict[str, Any] = {"spec": {"tcpPorts": [1, 2], "env": [{"name": "A", "value": "b"}]}}
    cluster.kubectl(
        "patch", "tunnels.moorline.dev", "prod", "-n", prod.customer.name, "--type=merge", "-p", json.dumps(patch)
    )
    assert repair.find_drift(target).tunnels == 1
    reconcile(target)
    mirror = cluster.read("tunnels.moorline.dev", "prod", "-n", prod.customer.name)
    assert mirror["spec"] == {"tcpPorts": [25060]}


def test_ports_that_run_out_are_a_condition_and_follow_later(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel, settings: LazySettings
) -> None:
    settings.MOORLINE_LISTEN_PORTS = range(20000, 20003)
    settings.MOORLINE_PORT_QUARANTINE = 0
    late = tunnels.create_tunnel(customer=prod.customer, name="late", tcp_ports=[22], actor=STAFF)
    tally = reconcile_due(target)
    assert {problem.reason for problem in tally.problems} == {"PortsExhausted"}
    assert conditions(late)["Provisioned"] == ("False", "PortsExhausted")
    assert service_ports(cluster, prod.customer.name, "late") == {"http": (8000, 20002)}
    tunnels.update_tunnel(tunnel=prod, tcp_ports=[], actor=STAFF)
    work.touch_tunnels([late.pk])
    reconcile(target)
    assert service_ports(cluster, prod.customer.name, "late") == {"http": (8000, 20002), "tcp-22": (22, 20001)}


def test_a_silent_api_server_loses_nothing(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    reconcile(target)
    cluster.pause()
    try:
        connect_client(prod, start_gateway("gateway-0", "10.9.0.1"))
        tunnels.update_tunnel(tunnel=prod, tcp_ports=[25060, 22], actor=STAFF)
        gone = tunnels.create_tunnel(customer=prod.customer, name="gone", actor=STAFF)
        tunnels.delete_tunnel(tunnel=gone, actor=STAFF)
        tally = reconcile_due(target)
        assert {problem.reason for problem in tally.problems} == {"ClusterUnreachable"}
        assert conditions(prod)["Provisioned"] == ("True", "Provisioned")
        assert conditions(prod)["Degraded"] == ("True", "ClusterUnreachable")
        assert TunnelStatus.objects.get(tunnel=prod).retry_at is not None
    finally:
        cluster.resume()
    keep_reconciling(target)
    assert set(service_ports(cluster, prod.customer.name)) == {"http", "tcp-25060", "tcp-22"}
    assert addresses(cluster, prod.customer.name) == ["10.9.0.1"]
    assert conditions(prod)["Degraded"] == ("False", "AsDesired")
    assert not Leftover.objects.exists()


def test_a_namespace_deleted_by_hand_comes_back_with_all_of_it(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    reconcile(target)
    namespace = prod.customer.name
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
    cluster.kubectl("delete", "services,endpointslices,tunnels.moorline.dev", "--all", "-n", namespace)
    assert repair.find_drift(target).tunnels == 1
    tally = reconcile_due(target)
    assert {problem.reason for problem in tally.problems} == {"NamespaceTerminating"}
    assert conditions(prod)["Provisioned"] == ("False", "NamespaceTerminating")
    # What the namespace controller does when everything in it is gone.
    document = cluster.read("namespace", namespace)
    document["spec"]["finalizers"] = []
    path = f"/api/v1/namespaces/{namespace}/finalize"
    cluster.kubectl("replace", "--raw", path, "-f", "-", input=json.dumps(document))
    keep_reconciling(target)
    assert set(service_ports(cluster, namespace)) == {"http", "tcp-25060"}


def test_a_right_that_is_missing_is_named(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel, settings: LazySettings
) -> None:
    from portal.cluster.api import connect

    settings.MOORLINE_KUBECONFIG = str(cluster.make_kubeconfig("nobody", target.installation.namespace))
    powerless = KubernetesTarget(connect(), target.installation, range(20000, 20100))
    tally = reconcile_due(powerless)
    assert {problem.reason for problem in tally.problems} == {"Forbidden"}
    assert "services" in message(prod, "Provisioned")


@pytest.mark.timeout(150)  # the minute, and a server that starts
def test_a_minute_without_the_api_server_is_caught_up_with_by_itself(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    reconcile(target)
    cluster.pause()
    try:
        connect_client(prod, start_gateway("gateway-0", "10.9.0.1"))
        back_at = time.monotonic() + 60
        while time.monotonic() < back_at:
            start_gateway("gateway-0", "10.9.0.1")  # it speaks of itself all the while
            reconcile_due(target)
            assert conditions(prod)["Degraded"] == ("True", "ClusterUnreachable")
            select.select([], [], [], 1.0)  # as often as beat asks, or more often
    finally:
        cluster.resume()
    ends = time.monotonic() + 70  # the longest time between two tries is a minute
    while conditions(prod)["Degraded"] != ("False", "AsDesired"):
        assert time.monotonic() < ends
        reconcile_due(target)
    assert addresses(cluster, prod.customer.name) == ["10.9.0.1"]


def test_a_resource_of_somebody_elses_with_the_tunnels_name_is_left_alone(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    namespace = prod.customer.name
    cluster.kubectl("create", "namespace", namespace)
    foreign = {
        "apiVersion": "moorline.dev/v1alpha1",
        "kind": "Tunnel",
        "metadata": {"name": "prod", "namespace": namespace},
        "spec": {"tcpPorts": [1]},
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(foreign))
    before = cluster.read("tunnels.moorline.dev", "prod", "-n", namespace)
    tally = reconcile_due(target)
    assert [problem.reason for problem in tally.problems] == ["NameTaken"]
    assert cluster.read("tunnels.moorline.dev", "prod", "-n", namespace) == before


def test_the_status_of_a_resource_tells_its_sessions(
    cluster: ApiServer, target: KubernetesTarget, acmeco: Customer
) -> None:
    cluster.kubectl("create", "namespace", acmeco.name)
    group = "uplink.inlets.dev"
    resource = {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "Tunnel",
        "metadata": {"name": "legacy", "namespace": acmeco.name},
        "spec": {"tcpPorts": [25060]},
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(resource))
    row = tunnels.create_tunnel(
        customer=acmeco, name="legacy", tcp_ports=[25060], resource=tunnels.Resource(group), actor=STAFF
    )
    TunnelStatus.objects.filter(tunnel=row).update(resource_generation=1)
    connect_client(row, start_gateway("gateway-0", "10.9.0.1"))
    reconcile(target)
    status = cluster.read(f"tunnels.{group}", "legacy", "-n", acmeco.name)["status"]
    assert (status["observedGeneration"], status["sessions"]) == (1, 1)
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Accepted": "True",
        "Provisioned": "True",
        "Connected": "True",
        "Degraded": "False",
    }
