"""Every read that the admin, the tasks and the pages share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import (
    Case,
    CharField,
    Count,
    Exists,
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

from portal.models import Customer, Event, Session, Token, Tunnel

IS_LIVE = Q(closed_at=None)


class TunnelState(TextChoices):
    """How a tunnel is, in the words that people read."""

    CONNECTED = "connected", "Connected"
    DISCONNECTED = "disconnected", "Disconnected"
    NEVER_CONNECTED = "never connected", "Never connected"
    DISABLED = "disabled", "Disabled"
    SUSPENDED = "suspended", "Customer suspended"


class TokenState(TextChoices):
    """Whether a token still opens its tunnel."""

    ACTIVE = "active", "Active"
    EXPIRED = "expired", "Expired"
    REVOKED = "revoked", "Revoked"


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
    lapsed = (
        Q(token__expires_at__lte=now or timezone.now())
        | Q(token__revoked_at__isnull=False)
        | Q(tunnel__enabled=False)
        | Q(tunnel__customer__suspended=True)
    )
    found = Session.objects.filter(IS_LIVE & lapsed).order_by("tunnel_id").values_list("tunnel_id", flat=True)
    return list(found.distinct())


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
