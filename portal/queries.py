"""Every read that the admin, the tasks and the pages share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import (
    Case,
    CharField,
    Count,
    Exists,
    F,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextChoices,
    Value,
    When,
)
from django.db.models.functions import Coalesce
from django.utils import timezone

from portal.models import (
    Customer,
    CustomerStatus,
    Event,
    Gateway,
    Leftover,
    Session,
    Token,
    Tunnel,
    TunnelPort,
    TunnelStatus,
)

IS_LIVE = Q(closed_at=None)
# Gateways speak of themselves every 15 seconds.
GONE_AFTER = timedelta(seconds=60)


class TunnelState(TextChoices):
    """How a tunnel is, in the words that people read."""

    CONNECTED = "connected", "Connected"
    DISCONNECTED = "disconnected", "Disconnected"
    NEVER_CONNECTED = "never connected", "Never connected"
    DISABLED = "disabled", "Disabled"
    EXPIRED = "expired", "Expired"
    SUSPENDED = "suspended", "Customer suspended"


class TokenState(TextChoices):
    """Whether a token still opens its tunnel."""

    ACTIVE = "active", "Active"
    EXPIRED = "expired", "Expired"
    REVOKED = "revoked", "Revoked"


@dataclass(frozen=True)
class Holder:
    """A gateway that holds a session of a tunnel, and where it takes connections from other gateways."""

    gateway: str
    address: str
    hop_port: int
    draining: bool


@dataclass(frozen=True)
class Route:
    """Where one tunnel with live sessions answers."""

    tunnel_id: str
    customer: str
    tunnel: str
    tcp_ports: Mapping[int, int] = field(hash=False)  # the tunnel's port -> the port to listen on
    http_port: int | None
    hosts: tuple[str, ...]
    max_streams: int
    revision: int
    holders: tuple[Holder, ...]


@dataclass(frozen=True)
class Totals:
    """The numbers on the dashboard."""

    customers: int
    tunnels: int
    connected_tunnels: int
    live_sessions: int


def live_sessions(tunnel: Tunnel | None = None) -> QuerySet[Session]:
    """Find the sessions that are up, the newest first, of one tunnel or of all."""
    sessions = Session.objects.filter(IS_LIVE).select_related("tunnel__customer", "token")
    return sessions if tunnel is None else sessions.filter(tunnel=tunnel)


def annotate_tunnels(tunnels: QuerySet[Tunnel]) -> QuerySet[Any]:
    """Add ``live_session_count`` and ``state`` (a `TunnelState`) to each tunnel, in the same query."""
    sessions = Session.objects.filter(tunnel=OuterRef("pk")).order_by()
    live_count = sessions.filter(IS_LIVE).values("tunnel").annotate(count=Count("pk")).values("count")
    return tunnels.select_related("customer").annotate(
        live_session_count=Coalesce(Subquery(live_count, output_field=IntegerField()), 0),
        state=Case(
            When(customer__suspended=True, then=Value(TunnelState.SUSPENDED.value)),
            When(enabled=False, then=Value(TunnelState.DISABLED.value)),
            When(expires_at__lte=timezone.now(), then=Value(TunnelState.EXPIRED.value)),
            When(Exists(sessions.filter(IS_LIVE)), then=Value(TunnelState.CONNECTED.value)),
            # Old sessions are pruned; that a token was used stays.
            When(
                Exists(sessions) | Exists(Token.objects.filter(tunnel=OuterRef("pk"), last_used_at__isnull=False)),
                then=Value(TunnelState.DISCONNECTED.value),
            ),
            default=Value(TunnelState.NEVER_CONNECTED.value),
            output_field=CharField(),
        ),
    )


def tunnels_with_state() -> QuerySet[Any]:
    """Find all tunnels with ``state`` and ``live_session_count``, their ports and host names: three queries."""
    return annotate_tunnels(Tunnel.objects.all()).prefetch_related("ports", "hosts")


def tunnels_by_need() -> QuerySet[Any]:
    """Find the same, those first that need a look."""
    order = [
        TunnelState.DISCONNECTED,
        TunnelState.NEVER_CONNECTED,
        TunnelState.CONNECTED,
        TunnelState.EXPIRED,
        TunnelState.SUSPENDED,
        TunnelState.DISABLED,
    ]
    need = Case(*(When(state=state, then=Value(place)) for place, state in enumerate(order)))
    return tunnels_with_state().order_by(need, "customer__name", "name")


def annotate_customers(customers: QuerySet[Customer]) -> QuerySet[Any]:
    """Add ``tunnel_count`` and ``connected_tunnel_count`` to each customer, in the same query."""
    tunnels = Tunnel.objects.filter(customer=OuterRef("pk")).order_by()
    connected = tunnels.filter(Exists(Session.objects.filter(IS_LIVE, tunnel=OuterRef("pk"))))

    def count(rows: QuerySet[Tunnel]) -> Coalesce:
        counts = rows.values("customer").annotate(count=Count("pk")).values("count")
        return Coalesce(Subquery(counts, output_field=IntegerField()), 0)

    return customers.annotate(tunnel_count=count(tunnels), connected_tunnel_count=count(connected))


def annotate_gateways(gateways: QuerySet[Gateway]) -> QuerySet[Any]:
    """Add ``live_session_count`` to each gateway, in the same query."""
    sessions = Session.objects.filter(IS_LIVE, gateway=OuterRef("name")).order_by()
    counts = sessions.values("gateway").annotate(count=Count("pk")).values("count")
    return gateways.annotate(live_session_count=Coalesce(Subquery(counts, output_field=IntegerField()), 0))


def token_state(token: Token, now: datetime | None = None) -> TokenState:
    """Say whether a token still opens its tunnel."""
    if token.revoked_at is not None:
        return TokenState.REVOKED
    if token.expires_at is not None and token.expires_at <= (now or timezone.now()):
        return TokenState.EXPIRED
    return TokenState.ACTIVE


def active_tokens(tunnel: Tunnel, now: datetime | None = None) -> QuerySet[Token]:
    """Find the tokens that open a tunnel."""
    not_expired = Q(expires_at=None) | Q(expires_at__gt=now or timezone.now())
    return tunnel.tokens.filter(not_expired, revoked_at=None)


def lapsed_tunnel_ids(now: datetime | None = None) -> list[int]:
    """Find the tunnels with a live session that may be live no more.

    That is one whose token has expired, and any that outlived a notice nobody heard.
    """
    now = now or timezone.now()
    lapsed = (
        Q(token__expires_at__lte=now)
        | Q(tunnel__expires_at__lte=now)
        | Q(token__revoked_at__isnull=False)
        | Q(tunnel__enabled=False)
        | Q(tunnel__customer__suspended=True)
    )
    found = Session.objects.filter(IS_LIVE & lapsed).order_by("tunnel_id").values_list("tunnel_id", flat=True)
    return list(found.distinct())


def tcp_listen_ports(ports: Iterable[TunnelPort]) -> dict[int, int]:
    """Say where gateways listen for each TCP port of a tunnel; those for which no number was free are left out."""
    listening = (port for port in ports if port.kind == TunnelPort.Kind.TCP and port.listen_port is not None)
    return {port.port: port.listen_port for port in listening if port.listen_port is not None}


def http_listen_port(ports: Iterable[TunnelPort]) -> int | None:
    """Say where gateways listen for HTTP of a tunnel, if a number was free."""
    return next((port.listen_port for port in ports if port.kind == TunnelPort.Kind.HTTP), None)


def live_gateways(now: datetime | None = None) -> QuerySet[Gateway]:
    """Find the gateways that have been heard of within 60 seconds."""
    return Gateway.objects.filter(last_seen_at__gte=(now or timezone.now()) - GONE_AFTER)


def find_holders(tunnel_ids: Collection[int] | None = None) -> dict[int, list[Gateway]]:
    """Say for each tunnel with a live session which live gateways hold one: two queries."""
    gateways = {gateway.name: gateway for gateway in live_gateways()}
    sessions = Session.objects.filter(IS_LIVE, gateway__in=gateways).order_by("tunnel_id", "gateway")
    if tunnel_ids is not None:
        sessions = sessions.filter(tunnel_id__in=tunnel_ids)
    holders: dict[int, list[Gateway]] = {}
    for tunnel_id, name in sessions.values_list("tunnel_id", "gateway").distinct():
        holders.setdefault(tunnel_id, []).append(gateways[name])
    return holders


def find_routes(tunnel_ids: Collection[int] | None = None) -> list[Route]:
    """Find where tunnels with live sessions answer, of these or of all: five queries."""
    holders = find_holders(tunnel_ids)
    tunnels = Tunnel.objects.filter(pk__in=holders).select_related("customer").prefetch_related("ports", "hosts")
    return [
        Route(
            tunnel_id=str(tunnel.pk),
            customer=tunnel.customer.name,
            tunnel=tunnel.name,
            tcp_ports=tcp_listen_ports(tunnel.ports.all()),
            http_port=http_listen_port(tunnel.ports.all()),
            hosts=tuple(host.name for host in tunnel.hosts.all()),
            max_streams=tunnel.max_streams,
            revision=tunnel.generation,
            holders=tuple(
                Holder(gateway.name, gateway.address, gateway.hop_port, gateway.draining)
                for gateway in holders[tunnel.pk]
            ),
        )
        for tunnel in tunnels
    ]


def count_tunnels_by_state() -> dict[str, int]:
    """Count the tunnels in each state: one query."""
    counts = annotate_tunnels(Tunnel.objects.all()).order_by().values("state").annotate(count=Count("pk"))
    found = {row["state"]: row["count"] for row in counts}
    return {state.value: found.get(state.value, 0) for state in TunnelState}


def count_gateways(now: datetime | None = None) -> dict[str, int]:
    """Count the gateways that are up, that are stopping and that went silent."""
    heard_of = list(live_gateways(now).values_list("draining", flat=True))
    return {
        "up": heard_of.count(False),
        "stopping": heard_of.count(True),
        "silent": Gateway.objects.count() - len(heard_of),
    }


def count_work() -> dict[str, int]:
    """Count the rows that the reconciler has to do, and those among them that it failed at before."""
    counts = {"due": 0, "failing": 0}
    for kind in (CustomerStatus, TunnelStatus, Leftover):
        to_do = kind.objects.filter(revision__gt=F("applied_revision"))
        counts["due"] += to_do.count()
        counts["failing"] += to_do.filter(failures__gt=0).count()
    return counts


def recent_events(limit: int) -> QuerySet[Event]:
    """Find the newest lines of the audit trail."""
    return Event.objects.all()[:limit]


def count_totals() -> Totals:
    """Count what the dashboard shows: three queries."""
    live = (
        live_sessions()
        .order_by()
        .select_related(None)
        .aggregate(sessions=Count("pk"), tunnels=Count("tunnel", distinct=True))
    )
    return Totals(
        customers=Customer.objects.count(),
        tunnels=Tunnel.objects.count(),
        connected_tunnels=live["tunnels"],
        live_sessions=live["sessions"],
    )
