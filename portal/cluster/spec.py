"""What is desired of customers and tunnels, read from rows in a few queries and then free of the database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final

from django.conf import settings
from django.db.models import Count, Q
from django.utils import timezone

from portal import queries
from portal.models import Customer, Source, Tunnel, TunnelPort

NAME_TAKEN: Final = "NameTaken"  # the reason of what belongs to somebody else


class Standing(Enum):
    """Whether clients of a tunnel are let in; the value is the reason of its condition."""

    OPEN = "Open"
    DISABLED = "Disabled"
    EXPIRED = "Expired"
    SUSPENDED = "CustomerSuspended"


@dataclass(frozen=True)
class Installation:
    """What all objects of one installation share.

    Args:
        name: the value of its label.
        namespace: where the gateways run.
        gateway_labels: what selects the gateways' pods.
        network_policies: whether it restricts who may connect to the gateways.
        scope: the one namespace that it serves; empty for all.
    """

    name: str
    namespace: str
    gateway_labels: Mapping[str, str] = field(hash=False)
    network_policies: bool
    scope: str = ""


@dataclass(frozen=True)
class PortSpec:
    """A port of a tunnel, and where gateways listen for it; None where no number was free."""

    port: int
    listen_port: int | None
    is_http: bool = False

    @property
    def name(self) -> str:
        """The name of the port in Services and EndpointSlices."""
        return "http" if self.is_http else f"tcp-{self.port}"


@dataclass(frozen=True)
class Endpoint:
    """A gateway that a Service leads to."""

    gateway: str
    address: str


@dataclass(frozen=True)
class CustomerSpec:
    """What is desired of a customer's namespace."""

    customer_id: int
    name: str
    resource_quota: Mapping[str, str] = field(default_factory=dict, hash=False)
    isolated: bool = False
    source: Source = Source.PORTAL


@dataclass(frozen=True)
class TunnelSpec:
    """What is desired of a tunnel, and where its sessions are now."""

    tunnel_id: int
    customer: str
    name: str
    generation: int
    ports: tuple[PortSpec, ...]
    hosts: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    sessions: int = 0
    access: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    expires_at: datetime | None = None
    standing: Standing = Standing.OPEN
    source: Source = Source.PORTAL
    resource_group: str = ""
    resource_generation: int = 0
    token_secret: str = ""
    token_key: str = ""
    blocked: str = ""  # why nothing may be written into its namespace

    def __str__(self) -> str:
        return f"{self.customer}/{self.name}"

    @property
    def listening(self) -> tuple[PortSpec, ...]:
        """The ports that gateways can listen for."""
        return tuple(port for port in self.ports if port.listen_port is not None)

    @property
    def missing_ports(self) -> tuple[int, ...]:
        """The ports for which no number was free."""
        return tuple(port.port for port in self.ports if port.listen_port is None)


def read_installation() -> Installation:
    """Read what all objects share from the settings."""
    return Installation(
        name=settings.MOORLINE_INSTALLATION,
        namespace=settings.MOORLINE_NAMESPACE,
        gateway_labels=settings.MOORLINE_GATEWAY_LABELS,
        network_policies=settings.MOORLINE_NETWORK_POLICIES,
        scope=settings.MOORLINE_TUNNELS_NAMESPACE,
    )


def read_customers(customer_ids: Collection[int] | None = None) -> list[CustomerSpec]:
    """Read customers, these or all."""
    rows = Customer.objects.all() if customer_ids is None else Customer.objects.filter(pk__in=customer_ids)
    return [
        CustomerSpec(row.pk, row.name, row.resource_quota, row.isolated, Source(row.source))
        for row in rows.order_by("pk")
    ]


def read_tunnels(tunnel_ids: Collection[int] | None = None, now: datetime | None = None) -> list[TunnelSpec]:
    """Read tunnels, these or all, with the gateways that hold their sessions: six queries."""
    now = now or timezone.now()
    rows = Tunnel.objects.select_related("customer__status", "status").prefetch_related("ports", "hosts").order_by("pk")
    rows = rows.annotate(live=Count("sessions", filter=Q(sessions__closed_at=None)))
    if tunnel_ids is not None:
        rows = rows.filter(pk__in=tunnel_ids)
    holders = queries.find_holders(tunnel_ids)
    return [_read_tunnel(row, [*holders.get(row.pk, [])], now) for row in rows]


def read_restricted_ports() -> list[int]:
    """Read where gateways listen for tunnels that restrict who may connect."""
    ports = TunnelPort.objects.exclude(tunnel__access=[]).exclude(listen_port=None).order_by("listen_port")
    return [number for number in ports.values_list("listen_port", flat=True) if number is not None]


def _read_tunnel(row: Any, gateways: list[Any], now: datetime) -> TunnelSpec:
    reachable = [gateway for gateway in gateways if gateway.address]
    # One that has gone silent, or that stops, may take connections still, so it is better than none.
    heard_of = [gateway for gateway in reachable if not gateway.silent] or reachable
    staying = [gateway for gateway in heard_of if not gateway.draining] or heard_of
    return TunnelSpec(
        tunnel_id=row.pk,
        customer=row.customer.name,
        name=row.name,
        generation=row.generation,
        ports=tuple(
            PortSpec(port.port, port.listen_port, port.kind == TunnelPort.Kind.HTTP)
            for port in sorted(row.ports.all(), key=lambda port: port.port)
        ),
        hosts=tuple(sorted(host.name for host in row.hosts.all())),
        endpoints=tuple(sorted((Endpoint(g.name, g.address) for g in staying), key=lambda one: one.gateway)),
        sessions=row.live,
        access=tuple(row.access),
        expires_at=row.expires_at,
        standing=_read_standing(row, now),
        source=Source(row.source),
        resource_group=row.resource_group,
        resource_generation=row.status.resource_generation,
        token_secret=row.token_secret,
        token_key=row.token_key,
        blocked=_read_blocked(row.customer.status.conditions),
    )


def _read_blocked(conditions: list[dict[str, str]]) -> str:
    """Return why a customer's namespace is not ours to write into, if so."""
    return next((one["message"] for one in conditions if one["reason"] == NAME_TAKEN), "")


def _read_standing(row: Tunnel, now: datetime) -> Standing:
    if row.customer.suspended:
        return Standing.SUSPENDED
    if not row.enabled:
        return Standing.DISABLED
    if row.expires_at is not None and row.expires_at <= now:
        return Standing.EXPIRED
    return Standing.OPEN
