"""From what is desired to manifests: pure functions, and what they return is all that is applied.

A field that is ``None`` has to be absent: what somebody put there by hand is taken away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, Final

from portal.cluster import names
from portal.cluster.spec import CustomerSpec, Endpoint, Installation, PortSpec, TunnelSpec
from portal.models import Source

Manifest = dict[str, Any]

MOST_SLICE_PORTS: Final = 100  # the API's own limit
FAMILIES: Final = ("IPv4", "IPv6")
RESOURCE_API: Final = f"{names.DOMAIN}/v1alpha1"
EVERYWHERE: Final[dict[str, Any]] = {"namespaceSelector": {}}


def render_tunnel(installation: Installation, tunnel: TunnelSpec) -> list[Manifest]:
    """Return everything that is desired for one tunnel, in the order to apply it."""
    ports = tunnel.listening
    manifests: list[Manifest] = []
    if ports:
        manifests += [make_service(installation, tunnel, tunnel.name, ports)]
        manifests += make_endpoint_slices(installation, tunnel, tunnel.name, ports)
    http = [port for port in ports if port.is_http]
    if http:
        for service in _host_services(tunnel):
            manifests += [make_service(installation, tunnel, service, http)]
            manifests += make_endpoint_slices(installation, tunnel, service, http)
    if tunnel.access and installation.network_policies and ports:
        manifests.append(make_tunnel_policy(installation, tunnel))
    if tunnel.source == Source.PORTAL:
        manifests.append(make_mirror(installation, tunnel))
    return manifests


def render_customer(installation: Installation, customer: CustomerSpec) -> list[Manifest]:
    """Return what is desired in a customer's namespace for the customer as a whole."""
    manifests = []
    if customer.resource_quota:
        manifests.append(make_quota(installation, customer))
    if customer.isolated:
        manifests.append(make_customer_policy(installation, customer))
    return manifests


def make_namespace(installation: Installation, customer: str, *, is_new: bool) -> Manifest:
    """Return the namespace of a customer; one that is new says that we made it, and so may delete it."""
    metadata: Manifest = {
        "name": customer,
        "labels": {
            names.UPLINK: "1",
            names.INSTALLATION: installation.name,
            names.CUSTOMER: customer,
        },
    }
    if is_new:
        metadata["annotations"] = {names.CREATED_BY: installation.name}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def make_service(installation: Installation, tunnel: TunnelSpec, name: str, ports: Iterable[PortSpec]) -> Manifest:
    """Return a Service of a tunnel; who answers is in its EndpointSlices, so it selects no pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(installation, tunnel, name),
        "spec": {
            "type": "ClusterIP",
            "selector": None,
            "externalIPs": None,
            "ports": [
                {"name": port.name, "port": port.port, "protocol": "TCP", "targetPort": port.listen_port}
                for port in ports
            ],
        },
    }


def make_endpoint_slices(
    installation: Installation, tunnel: TunnelSpec, service: str, ports: Sequence[PortSpec]
) -> list[Manifest]:
    """Return the EndpointSlices of a Service: the gateways that hold sessions of the tunnel.

    There is one of IPv4 always, so that a tunnel without a client has an empty one to look at, and one of IPv6 where
    gateways have such addresses; each holds a hundred ports at most.
    """
    slices = []
    for family in FAMILIES:
        endpoints = [endpoint for endpoint in tunnel.endpoints if _family_of(endpoint) == family]
        if not endpoints and family != FAMILIES[0]:
            continue
        for part, start in enumerate(range(0, len(ports), MOST_SLICE_PORTS)):
            metadata = _metadata(installation, tunnel, names.slice_name(service, family, part))
            metadata["labels"] |= {names.SERVICE_NAME: service, names.SLICE_MANAGED_BY: names.MANAGER}
            slices.append(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": metadata,
                    "addressType": family,
                    "endpoints": [_make_endpoint(installation, endpoint) for endpoint in endpoints],
                    "ports": [
                        {"name": port.name, "port": port.listen_port, "protocol": "TCP"}
                        for port in ports[start : start + MOST_SLICE_PORTS]
                    ],
                }
            )
    return slices


def make_tunnel_policy(installation: Installation, tunnel: TunnelSpec) -> Manifest:
    """Return the NetworkPolicy that lets a tunnel's peers, and nobody else, connect to its ports of the gateways."""
    metadata = _metadata(installation, tunnel, names.policy_name(tunnel.customer, tunnel.name))
    ports = sorted(port.listen_port for port in tunnel.listening if port.listen_port is not None)
    # Written as for a policy in the customer's namespace, where a peer that names no namespaces means those of its own.
    own = {"matchLabels": {"kubernetes.io/metadata.name": tunnel.customer}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata | {"namespace": installation.namespace},
        "spec": {
            "podSelector": {"matchLabels": dict(installation.gateway_labels)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"namespaceSelector": own, **peer} for peer in tunnel.access],
                    "ports": [{"port": port, "protocol": "TCP"} for port in ports],
                }
            ],
        },
    }


def make_tunnels_policy(installation: Installation, listen_ports: range, restricted: Iterable[int]) -> Manifest:
    """Return the NetworkPolicy that opens to the whole cluster what no tunnel restricts.

    Args:
        listen_ports: those that gateways listen on for tunnels.
        restricted: those of tunnels that say who may connect.
    """
    ports = [
        {"port": first, "endPort": last, "protocol": "TCP"} for first, last in _open_ranges(listen_ports, restricted)
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": names.TUNNELS_POLICY,
            "namespace": installation.namespace,
            "labels": names.labels_of(installation.name),
        },
        "spec": {
            "podSelector": {"matchLabels": dict(installation.gateway_labels)},
            "policyTypes": ["Ingress"],
            # A rule without ports would open them all.
            "ingress": [{"from": [EVERYWHERE], "ports": ports}] if ports else [],
        },
    }


def make_quota(installation: Installation, customer: CustomerSpec) -> Manifest:
    """Return the ResourceQuota of a customer's namespace."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": _customer_metadata(installation, customer),
        "spec": {"hard": dict(customer.resource_quota)},
    }


def make_customer_policy(installation: Installation, customer: CustomerSpec) -> Manifest:
    """Return the NetworkPolicy by which pods of a customer's namespace take connections from that namespace alone."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _customer_metadata(installation, customer),
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]},
    }


def make_mirror(installation: Installation, tunnel: TunnelSpec) -> Manifest:
    """Return the Tunnel resource that shows a tunnel of the portal to those who look with kubectl."""
    metadata = _metadata(installation, tunnel, tunnel.name)
    metadata["labels"] |= {names.MIRROR: names.MIRROR_VALUE}
    return {"apiVersion": RESOURCE_API, "kind": "Tunnel", "metadata": metadata, "spec": make_resource_spec(tunnel)}


def make_resource_spec(tunnel: TunnelSpec) -> Manifest:
    """Return a tunnel in the words of the Tunnel resource, without what only a person can have written there."""
    return {
        "tcpPorts": [port.port for port in tunnel.ports if not port.is_http],
        # Left out and not empty: the last element of a set is taken away by a server-side apply of nothing.
        "upstreamDomains": list(tunnel.hosts) or None,
        "access": {"from": [dict(peer) for peer in tunnel.access]} if tunnel.access else None,
        "expiresAt": tunnel.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ") if tunnel.expires_at else None,
        "tokenRef": None,
        "podAnnotations": None,
        "nodeSelector": None,
        "env": None,
        "licenseRef": None,
    }


def make_secret(installation: Installation, tunnel: TunnelSpec, token: str) -> Manifest:
    """Return the Secret by which whoever made the Tunnel resource gets the token."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(installation, tunnel, tunnel.name),
        "type": "Opaque",
        "stringData": {"token": token},
    }


def _host_services(tunnel: TunnelSpec) -> list[str]:
    """Name the Services of the host names; the tunnel's own answers HTTP as well."""
    return sorted({names.host_service(host) for host in tunnel.hosts} - {tunnel.name})


def _make_endpoint(installation: Installation, endpoint: Endpoint) -> Manifest:
    return {
        "addresses": [endpoint.address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {"kind": "Pod", "name": endpoint.gateway, "namespace": installation.namespace},
    }


def _family_of(endpoint: Endpoint) -> str:
    return f"IPv{ipaddress.ip_address(endpoint.address).version}"


def _metadata(installation: Installation, tunnel: TunnelSpec, name: str) -> Manifest:
    labels = names.labels_of(installation.name, tunnel.customer, tunnel.name)
    return {"name": name, "namespace": tunnel.customer, "labels": labels}


def _customer_metadata(installation: Installation, customer: CustomerSpec) -> Manifest:
    labels = names.labels_of(installation.name, customer.name)
    return {"name": names.CUSTOMER_OBJECT, "namespace": customer.name, "labels": labels}


def _open_ranges(listen_ports: range, restricted: Iterable[int]) -> list[tuple[int, int]]:
    """Return the ranges between the restricted ports, both ends included."""
    ranges = []
    first = listen_ports.start
    for port in [*sorted(port for port in set(restricted) if port in listen_ports), listen_ports.stop]:
        if first < port:
            ranges.append((first, port - 1))
        first = port + 1
    return ranges
