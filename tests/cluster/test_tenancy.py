"""What one customer can write in the cluster reaches no other: labels are anybody's to write."""

from __future__ import annotations

import json

import pytest

from portal.cluster import repair
from portal.cluster.reconcile import reconcile_due
from portal.cluster.target import KubernetesTarget
from portal.models import Customer, CustomerStatus, Leftover, Source, Tunnel, TunnelStatus
from portal.services import customers, tunnels, work
from portal.services.tunnels import Resource
from tests.cluster.apiserver import ApiServer
from tests.cluster.test_reconcile import (
    acmeco,
    conditions,
    keep_reconciling,
    names_of,
    prod,
    reconcile,
    service_ports,
)
from tests.conftest import STAFF

__all__ = ["acmeco", "prod"]

pytestmark = [pytest.mark.api, pytest.mark.django_db]

PEER = {"podSelector": {"matchLabels": {"a": "b"}}}


@pytest.fixture
def evil(cluster: ApiServer) -> str:
    return cluster.make_namespace("evil")


def forge(cluster: ApiServer, target: KubernetesTarget, namespace: str, kind: str, **labels: str) -> None:
    """Make an object with labels as ours."""
    labels = {f"moorline.dev/{name}": value for name, value in labels.items()}
    labels |= {"moorline.dev/installation": target.installation.name, "app.kubernetes.io/managed-by": "moorline"}
    bodies = {
        "Service": ("v1", {"ports": [{"port": 1}]}),
        "Tunnel": ("uplink.inlets.dev/v1alpha1", {"tcpPorts": [1]}),
    }
    version, spec = bodies[kind]
    metadata = {"name": "forged", "namespace": namespace, "labels": labels}
    document = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
    cluster.kubectl("create", "-f", "-", input=json.dumps(document))


def test_labels_without_names_are_nobodys(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel, evil: str
) -> None:
    customers.update_customer(customer=prod.customer, resource_quota={"pods": "9"}, isolated=True, actor=STAFF)
    reconcile(target)
    forge(cluster, target, evil, "Service", customer="", tunnel="")
    assert repair.find_drift(target) == repair.Drift()
    reconcile(target)
    assert names_of(cluster, "networkpolicies", prod.customer.name) == ["moorline"]
    assert names_of(cluster, "resourcequotas", prod.customer.name) == ["moorline"]


@pytest.mark.parametrize("kind", ["Service", "Tunnel"])
def test_labels_of_another_customers_tunnel_disturb_nobody(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel, evil: str, kind: str
) -> None:
    forge(cluster, target, evil, kind, customer=prod.customer.name, tunnel="prod")
    for number in range(12):  # so many that the whole cluster is looked at
        tunnels.create_tunnel(customer=prod.customer, name=f"t{number}", actor=STAFF)
    reconcile(target)
    assert repair.find_drift(target) == repair.Drift()
    plural = "services" if kind == "Service" else "tunnels.uplink.inlets.dev"
    assert names_of(cluster, plural, evil) == ["forged"]


def test_a_namespace_that_a_resources_customer_lived_in_stays(cluster: ApiServer, target: KubernetesTarget) -> None:
    namespace = cluster.make_namespace("acmeco", {"moorline.dev/uplink": "1"})
    cluster.kubectl("annotate", "namespace", namespace, f"moorline.dev/created-by={target.installation.name}")
    customer = customers.create_customer(name=namespace, source=Source.RESOURCE, actor=STAFF)
    reconcile(target)
    customers.delete_customer(customer=customer, actor=STAFF)
    reconcile(target)
    assert "deletionTimestamp" not in cluster.read("namespace", namespace)["metadata"]


def test_a_namespace_that_only_says_it_is_ours_stays(
    cluster: ApiServer, target: KubernetesTarget, acmeco: Customer
) -> None:
    cluster.kubectl("create", "namespace", acmeco.name)
    cluster.kubectl("annotate", "namespace", acmeco.name, f"moorline.dev/created-by={target.installation.name}")
    reconcile(target)
    assert not CustomerStatus.objects.get(customer=acmeco).made_namespace
    customers.delete_customer(customer=acmeco, actor=STAFF)
    reconcile(target)
    assert "deletionTimestamp" not in cluster.read("namespace", acmeco.name)["metadata"]


def test_a_foreign_service_gets_no_endpoints_of_ours(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    cluster.kubectl("create", "namespace", prod.customer.name)
    cluster.kubectl("create", "service", "clusterip", "prod", "-n", prod.customer.name, "--tcp=80:80")
    reconcile_due(target)
    assert names_of(cluster, "endpointslices", prod.customer.name) == []


def test_a_service_of_another_tunnel_gets_no_endpoints_of_this_one(
    cluster: ApiServer, target: KubernetesTarget, acmeco: Customer
) -> None:
    tunnels.create_tunnel(customer=acmeco, name="a", host_names=["b"], actor=STAFF)
    reconcile(target)
    other = tunnels.create_tunnel(customer=acmeco, name="b", tcp_ports=[5432], actor=STAFF)
    (problem,) = reconcile_due(target).problems
    assert problem.message.startswith(f"Service {acmeco.name}/b belongs to the tunnel {acmeco.name}/a. Give")
    assert service_ports(cluster, acmeco.name, "b") == {"http": (8000, 20000)}
    assert names_of(cluster, "endpointslices", acmeco.name) == ["a-moorline", "b-moorline"]
    owner = cluster.read("endpointslice", "b-moorline", "-n", acmeco.name)["metadata"]["labels"]["moorline.dev/tunnel"]
    assert owner == "a"
    tunnels.update_tunnel(tunnel=Tunnel.objects.get(name="a"), host_names=[], actor=STAFF)
    keep_reconciling(target)
    assert set(service_ports(cluster, acmeco.name, "b")) == {"http", "tcp-5432"}
    assert conditions(other)["Provisioned"] == ("True", "Provisioned")


def test_a_copy_of_a_mirror_is_its_owners(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    reconcile(target)
    copy = cluster.read("tunnels.moorline.dev", "prod", "-n", prod.customer.name)
    labels = copy["metadata"]["labels"]
    copy["metadata"] = {"name": "prod2", "namespace": prod.customer.name, "labels": labels}
    del copy["metadata"]["labels"]["moorline.dev/managed-by"]
    cluster.kubectl("create", "-f", "-", input=json.dumps(copy))
    assert repair.find_drift(target) == repair.Drift()
    work.touch_tunnels([prod.pk])
    assert reconcile(target).written == 0
    assert names_of(cluster, "tunnels.moorline.dev", prod.customer.name) == ["prod", "prod2"]


def test_nothing_is_written_into_a_namespace_of_another_installation(
    cluster: ApiServer, target: KubernetesTarget, acmeco: Customer
) -> None:
    cluster.kubectl("create", "namespace", acmeco.name)
    cluster.kubectl("label", "namespace", acmeco.name, "moorline.dev/installation=other")
    row = tunnels.create_tunnel(customer=acmeco, name="prod", resource=Resource("moorline.dev"), actor=STAFF)
    reconcile_due(target)
    assert conditions(row)["Provisioned"] == ("False", "NameTaken")
    for kind in ("services", "endpointslices", "secrets"):
        assert names_of(cluster, kind, acmeco.name) == []
    cluster.kubectl("label", "namespace", acmeco.name, "moorline.dev/installation-")
    keep_reconciling(target)
    assert conditions(row)["Provisioned"] == ("True", "Provisioned")


def test_a_restriction_that_could_not_be_made_is_made_by_the_next_try(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    reconcile(target)
    tunnels.update_tunnel(tunnel=prod, access=[PEER], actor=STAFF)
    cluster.pause()
    try:
        assert reconcile_due(target).problems
    finally:
        cluster.resume()
    keep_reconciling(target)
    policy = cluster.read("networkpolicy", "moorline-tunnels", "-n", target.installation.namespace)
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == [20002]


def test_a_fault_with_one_tunnel_holds_up_no_other(
    target: KubernetesTarget, prod: Tunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tunnels.create_tunnel(customer=prod.customer, name="other", actor=STAFF)
    bring = target.bring_tunnel

    def fail(spec: object, *arguments: object) -> object:
        if str(spec).endswith("/prod"):
            raise ZeroDivisionError
        return bring(spec, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(target, "bring_tunnel", fail)
    reconcile_due(target)
    assert conditions(prod)["Degraded"] == ("True", "Fault")
    assert conditions(other)["Provisioned"] == ("True", "Provisioned")
    assert not TunnelStatus.objects.exclude(claim=None).exists()
    assert not Leftover.objects.exists()
