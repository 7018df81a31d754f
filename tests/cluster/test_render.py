"""What is applied, whole: a manifest that changes by one field fails here."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import kubernetes_validate
import pytest

from portal.cluster import names
from portal.cluster.api import Manifest, without_absent
from portal.cluster.render import (
    make_customer_policy,
    make_mirror,
    make_namespace,
    make_quota,
    make_secret,
    make_tunnels_policy,
    render_customer,
    render_tunnel,
)
from portal.cluster.spec import CustomerSpec, Endpoint, Installation, PortSpec, TunnelSpec
from portal.models import Source

INSTALLATION = Installation("moorline", "gateways", {"component": "gateway"}, network_policies=True)
PORTS = (PortSpec(8000, 20000, is_http=True), PortSpec(25060, 20001))
PROD = TunnelSpec(tunnel_id=1, customer="acmeco", name="prod", generation=3, ports=PORTS)
ACMECO = CustomerSpec(1, "acmeco")
LABELS = {
    "app.kubernetes.io/managed-by": "moorline",
    "moorline.dev/installation": "moorline",
    "moorline.dev/customer": "acmeco",
    "moorline.dev/tunnel": "prod",
}


def kinds(tunnel: TunnelSpec, installation: Installation = INSTALLATION) -> list[str]:
    return [f"{one['kind']} {one['metadata']['name']}" for one in render_tunnel(installation, tunnel)]


def test_a_tunnel_is_a_service_a_slice_and_a_mirror() -> None:
    assert render_tunnel(INSTALLATION, PROD) == [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "prod", "namespace": "acmeco", "labels": LABELS},
            "spec": {
                "type": "ClusterIP",
                "selector": None,
                "externalIPs": None,
                "ports": [
                    {"name": "http", "port": 8000, "protocol": "TCP", "targetPort": 20000},
                    {"name": "tcp-25060", "port": 25060, "protocol": "TCP", "targetPort": 20001},
                ],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "prod-moorline",
                "namespace": "acmeco",
                "labels": {
                    **LABELS,
                    "kubernetes.io/service-name": "prod",
                    "endpointslice.kubernetes.io/managed-by": "moorline",
                },
            },
            "addressType": "IPv4",
            "endpoints": [],
            "ports": [
                {"name": "http", "port": 20000, "protocol": "TCP"},
                {"name": "tcp-25060", "port": 20001, "protocol": "TCP"},
            ],
        },
        {
            "apiVersion": "moorline.dev/v1alpha1",
            "kind": "Tunnel",
            "metadata": {
                "name": "prod",
                "namespace": "acmeco",
                "labels": {**LABELS, "moorline.dev/managed-by": "portal"},
            },
            "spec": {
                "tcpPorts": [25060],
                "upstreamDomains": None,
                "access": None,
                "expiresAt": None,
                "tokenRef": None,
                "podAnnotations": None,
                "nodeSelector": None,
                "env": None,
                "licenseRef": None,
            },
        },
    ]


def test_an_endpoint_is_a_gateway() -> None:
    tunnel = replace(PROD, endpoints=(Endpoint("gateway-0", "10.9.0.1"),))
    _, found, _ = render_tunnel(INSTALLATION, tunnel)
    assert found["endpoints"] == [
        {
            "addresses": ["10.9.0.1"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"kind": "Pod", "name": "gateway-0", "namespace": "gateways"},
        }
    ]


def test_ipv6_gateways_have_a_slice_of_their_own() -> None:
    tunnel = replace(PROD, endpoints=(Endpoint("gateway-0", "fd00::1"), Endpoint("gateway-1", "10.9.0.1")))
    slices = [one for one in render_tunnel(INSTALLATION, tunnel) if one["kind"] == "EndpointSlice"]
    found = {one["metadata"]["name"]: (one["addressType"], one["endpoints"][0]["addresses"]) for one in slices}
    assert found == {
        "prod-moorline": ("IPv4", ["10.9.0.1"]),
        "prod-moorline-ipv6": ("IPv6", ["fd00::1"]),
    }


def test_a_slice_holds_a_hundred_ports_at_most() -> None:
    ports = tuple(PortSpec(port, 20000 + port) for port in range(1, 151))
    slices = [one for one in render_tunnel(INSTALLATION, replace(PROD, ports=ports)) if one["kind"] == "EndpointSlice"]
    assert [(one["metadata"]["name"], len(one["ports"])) for one in slices] == [
        ("prod-moorline", 100),
        ("prod-moorline-2", 50),
    ]


def test_a_host_name_is_a_service_of_its_own() -> None:
    tunnel = replace(PROD, hosts=("fileshare", "identity1.local", "prod"))
    assert kinds(tunnel) == [
        "Service prod",
        "EndpointSlice prod-moorline",
        "Service fileshare",
        "EndpointSlice fileshare-moorline",
        "Service identity1-local",
        "EndpointSlice identity1-local-moorline",
        "Tunnel prod",
    ]
    fileshare = render_tunnel(INSTALLATION, tunnel)[2]
    assert fileshare["spec"]["ports"] == [{"name": "http", "port": 8000, "protocol": "TCP", "targetPort": 20000}]


def test_a_port_without_a_number_to_listen_on_is_left_out() -> None:
    assert kinds(replace(PROD, ports=(PortSpec(8000, None, is_http=True),), hosts=("a",))) == ["Tunnel prod"]
    service = render_tunnel(INSTALLATION, replace(PROD, ports=(*PORTS, PortSpec(22, None))))[0]
    assert [port["port"] for port in service["spec"]["ports"]] == [8000, 25060]


def test_a_tunnel_of_a_resource_has_no_mirror() -> None:
    assert kinds(replace(PROD, source=Source.RESOURCE)) == ["Service prod", "EndpointSlice prod-moorline"]


def test_a_restricted_tunnel_has_a_policy_beside_the_gateways() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "billing"}}}
    policy = render_tunnel(INSTALLATION, replace(PROD, access=(peer,)))[2]
    assert policy == {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "moorline-acmeco.prod", "namespace": "gateways", "labels": LABELS},
        "spec": {
            "podSelector": {"matchLabels": {"component": "gateway"}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [
                        {
                            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "acmeco"}},
                            "podSelector": {"matchLabels": {"app": "billing"}},
                        }
                    ],
                    "ports": [{"port": 20000, "protocol": "TCP"}, {"port": 20001, "protocol": "TCP"}],
                }
            ],
        },
    }
    assert "NetworkPolicy" not in str(
        kinds(replace(PROD, access=(peer,)), replace(INSTALLATION, network_policies=False))
    )


@pytest.mark.parametrize(
    ("restricted", "ranges"),
    [
        ([], [(20000, 20009)]),
        ([20000, 20009], [(20001, 20008)]),
        ([20004, 20005, 20004], [(20000, 20003), (20006, 20009)]),
        ([25060], [(20000, 20009)]),
        (range(20000, 20010), []),
    ],
)
def test_what_is_not_restricted_is_open_to_the_cluster(restricted: list[int], ranges: list[tuple[int, int]]) -> None:
    policy = make_tunnels_policy(INSTALLATION, range(20000, 20010), restricted)
    rules = policy["spec"]["ingress"]
    assert len(rules) == bool(ranges)  # a rule without ports would open them all
    assert [(port["port"], port["endPort"]) for rule in rules for port in rule["ports"]] == ranges


def test_a_new_namespace_says_that_we_made_it() -> None:
    adopted = make_namespace(INSTALLATION, "acmeco", is_new=False)
    assert adopted == {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "acmeco",
            "labels": {
                "moorline.dev/uplink": "1",
                "moorline.dev/installation": "moorline",
                "moorline.dev/customer": "acmeco",
            },
        },
    }
    new = make_namespace(INSTALLATION, "acmeco", is_new=True)
    assert new["metadata"]["annotations"] == {"moorline.dev/created-by": "moorline"}


def test_a_customer_has_what_it_asks_for() -> None:
    assert render_customer(INSTALLATION, ACMECO) == []
    wanted = CustomerSpec(1, "acmeco", {"count/services": "9"}, isolated=True)
    quota, policy = render_customer(INSTALLATION, wanted)
    assert quota == make_quota(INSTALLATION, wanted)
    assert quota["spec"] == {"hard": {"count/services": "9"}}
    assert policy == make_customer_policy(INSTALLATION, wanted)
    assert policy["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}]}],
    }


def test_a_mirror_tells_who_may_connect_and_until_when() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"a": "b"}}}
    spec = make_mirror(
        INSTALLATION, replace(PROD, access=(peer,), expires_at=datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC))
    )["spec"]
    assert (spec["access"], spec["expiresAt"]) == ({"from": [peer]}, "2027-01-02T03:04:05Z")


def list_all() -> list[Manifest]:
    peer = {"podSelector": {"matchLabels": {"app": "billing"}}}
    tunnel = replace(
        PROD, hosts=("a.b",), access=(peer,), endpoints=(Endpoint("gateway-0", "10.9.0.1"), Endpoint("g", "fd00::1"))
    )
    customer = CustomerSpec(1, "acmeco", {"count/services": "9"}, isolated=True)
    return [
        make_namespace(INSTALLATION, "acmeco", is_new=True),
        *render_customer(INSTALLATION, customer),
        *(one for one in render_tunnel(INSTALLATION, tunnel) if one["kind"] != "Tunnel"),
        make_tunnels_policy(INSTALLATION, range(20000, 20010), [20004]),
        make_secret(INSTALLATION, tunnel, "mlt_x"),
    ]


@pytest.mark.parametrize("manifest", list_all(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_every_manifest_is_valid(manifest: Manifest) -> None:
    kubernetes_validate.validate(without_absent(manifest), "1.36", strict=True)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("fileshare", "fileshare"),
        ("identity1.local", "identity1-local"),
        ("1.example.com", "h-1-example-com"),
        ("a" * 62 + ".example.com", "a" * 54 + "-" + "cf9b1c5a"),
    ],
)
def test_the_service_of_a_host_name_has_a_name_that_fits(host: str, name: str) -> None:
    found = names.host_service(host)
    assert len(found) <= 63
    assert found[:54] == name[:54]
    assert len(found) < 63 or found != names.host_service(f"{host}.org")
