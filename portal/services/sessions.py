"""Keep the record of sessions: gateways report them, the worker closes what no gateway speaks of any more.

The rows are the trail of who was connected when, so sessions write no events. The close codes are those of the wire
protocol, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from portal.models import Session, Tunnel
from portal.notices import publish_sessions_on_commit
from portal.services.work import touch_tunnels

# Gateways speak of their sessions every 15 seconds.
STALE_AFTER = timedelta(seconds=60)
KEEP_CLOSED = timedelta(days=30)
LOST = "LOST"
STALE_REASON = "The gateway has not been heard of for 60 seconds."
RESTART_REASON = "The gateway was started anew."


@transaction.atomic
def open_session(
    *,
    session_id: UUID | str,
    tunnel_id: int | str,
    token_id: int | str,
    gateway: str,
    client_version: str,
    client_instance: str,
    client_address: str,
    transport: str,
    opened_at: datetime,
) -> Session:
    """Record a session; a second report of the same one changes nothing.

    Args:
        client_version: as the client says, which is not to be trusted: cut to fit and freed of control characters.
        client_instance: the same.

    Raises:
        Tunnel.DoesNotExist: when the tunnel was deleted meanwhile.
    """
    try:
        with transaction.atomic():
            session, is_new = Session.objects.get_or_create(
                session_id=UUID(str(session_id)),
                defaults={
                    "tunnel_id": Tunnel.objects.only("pk").get(pk=tunnel_id).pk,
                    "token_id": int(token_id),
                    "gateway": _clip(gateway, 253),
                    "client_version": _clip(client_version, 64),
                    "client_instance": _clip(client_instance, 64),
                    "client_address": _clip(client_address, 64),
                    "transport": _clip(transport, 16),
                    "opened_at": opened_at,
                    "last_seen_at": max(opened_at, timezone.now()),
                },
            )
    except IntegrityError as error:
        raise Tunnel.DoesNotExist(f"Tunnel {tunnel_id} does not exist.") from error
    if is_new:
        _announce([session.tunnel_id])
    return session


@transaction.atomic
def close_session(
    *,
    session_id: UUID | str,
    code: str,
    reason: str = "",
    carried: tuple[int, int] | None = None,
    now: datetime | None = None,
) -> bool:
    """Record that a session has ended.

    Args:
        carried: the bytes it has received from its client and sent to it.

    Returns:
        Whether it was live; one that is closed already, or went with its tunnel, is left alone.
    """
    closed = bool(_close(Q(session_id=session_id), code, reason, now))
    if closed and carried is not None:
        Session.objects.filter(session_id=session_id).update(bytes_received=carried[0], bytes_sent=carried[1])
    return closed


@transaction.atomic
def close_gateway_sessions(*, gateway: str, reason: str = RESTART_REASON, now: datetime | None = None) -> int:
    """Close what an earlier life of a gateway left behind; a gateway that starts calls this.

    Returns:
        How many sessions were closed.
    """
    return _close(Q(gateway=gateway), LOST, reason, now)


@transaction.atomic
def heartbeat_sessions(*, gateway: str, carried: Mapping[str, tuple[int, int]], now: datetime | None = None) -> int:
    """Note that a gateway still has these sessions.

    One that was closed as stale, because the gateway could not reach the database for a while, is live again.

    Args:
        carried: for each session's id, the bytes it has received from its client and sent to it.

    Returns:
        How many sessions were found.
    """
    is_live = Q(closed_at=None) | Q(close_code=LOST, close_reason=STALE_REASON)
    found = list(
        Session.objects.filter(is_live, gateway=gateway, session_id__in=carried).only(
            "bytes_received", "bytes_sent", "closed_at", "tunnel_id"
        )
    )
    _announce(sorted({session.tunnel_id for session in found if session.closed_at is not None}))
    Session.objects.filter(session_id__in=[session.pk for session in found]).update(
        last_seen_at=now or timezone.now(), closed_at=None, close_code="", close_reason=""
    )
    busy = []
    for session in found:
        received, sent = carried[str(session.pk)]
        if (session.bytes_received, session.bytes_sent) != (received, sent):
            session.bytes_received, session.bytes_sent = received, sent
            busy.append(session)
    Session.objects.bulk_update(busy, ["bytes_received", "bytes_sent"], batch_size=500)
    return len(found)


@transaction.atomic
def sweep_stale_sessions(*, now: datetime | None = None) -> int:
    """Close the sessions that no gateway has spoken of for 60 seconds.

    Returns:
        How many sessions were closed.
    """
    now = now or timezone.now()
    return _close(Q(last_seen_at__lt=now - STALE_AFTER), LOST, STALE_REASON, now)


@transaction.atomic
def prune_closed_sessions(*, now: datetime | None = None) -> int:
    """Delete the record of sessions that closed more than 30 days ago.

    Returns:
        How many were deleted.
    """
    deleted, _ = Session.objects.filter(closed_at__lt=(now or timezone.now()) - KEEP_CLOSED).delete()
    return deleted


def _close(which: Q, code: str, reason: str, now: datetime | None) -> int:
    closing = Session.objects.filter(which, closed_at=None)
    tunnel_ids = list(closing.order_by("tunnel_id").values_list("tunnel_id", flat=True).distinct())
    closed = closing.update(
        closed_at=now or timezone.now(), close_code=_clip(code, 32), close_reason=_clip(reason, 200)
    )
    _announce(tunnel_ids)
    return closed


def _announce(tunnel_ids: list[int]) -> None:
    """Tell the reconciler, and the other gateways, that these tunnels answer elsewhere now."""
    if tunnel_ids:
        touch_tunnels(tunnel_ids)
        publish_sessions_on_commit(tunnel_ids)


def _clip(text: str, length: int) -> str:
    return "".join(character for character in text if character.isprintable())[:length]
