"""Keep the record of gateways: each speaks of itself every 15 seconds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from portal.models import Gateway, Session
from portal.notices import publish_sessions_on_commit
from portal.queries import GONE_AFTER
from portal.services.work import touch_tunnels

# Two of the words that it speaks every 15 seconds have not come.
SILENT_AFTER = timedelta(seconds=35)


@transaction.atomic
def register_gateway(
    *, name: str, address: str, hop_port: int, version: str, customers: Iterable[str], now: datetime | None = None
) -> Gateway:
    """Record that a gateway starts; one of this name that was there before is this one now.

    Args:
        name: unique among gateways.
        address: where other gateways and Services reach it; empty outside of a cluster.
        hop_port: where other gateways pass connections on; 0 where it takes none.
        version: of its program.
        customers: whom it is dedicated to; none serves everyone.
    """
    now = now or timezone.now()
    gateway, _ = Gateway.objects.update_or_create(
        name=name,
        defaults={
            "address": address,
            "hop_port": hop_port,
            "version": version[:64],
            "customers": sorted(customers),
            "draining": False,
            "silent": False,
            "started_at": now,
            "last_seen_at": now,
        },
    )
    return gateway


@transaction.atomic
def heartbeat_gateway(
    *,
    name: str,
    address: str,
    hop_port: int,
    version: str,
    customers: Iterable[str],
    draining: bool,
    now: datetime | None = None,
) -> None:
    """Note that a gateway is up; one that was taken for gone is there again."""
    now = now or timezone.now()
    said = {
        "address": address,
        "hop_port": hop_port,
        "version": version[:64],
        "customers": sorted(customers),
        "draining": draining,
        "silent": False,
    }
    gateway = Gateway.objects.select_for_update().filter(name=name).first()
    if gateway is None:
        Gateway.objects.create(name=name, started_at=now, last_seen_at=now, **said)
        _announce([name])
        return
    changed = {field: value for field, value in said.items() if getattr(gateway, field) != value}
    Gateway.objects.filter(pk=gateway.pk).update(last_seen_at=now, **changed)
    if {"address", "hop_port", "draining", "silent"} & changed.keys():
        _announce([name])


@transaction.atomic
def drain_gateway(*, name: str) -> None:
    """Note that a gateway is stopping: Services lead to others where there are any."""
    if Gateway.objects.filter(name=name, draining=False).update(draining=True):
        _announce([name])


@transaction.atomic
def remove_gateway(*, name: str) -> None:
    """Forget a gateway that has stopped."""
    _announce([name])
    Gateway.objects.filter(name=name).delete()


@transaction.atomic
def sweep_gone_gateways(*, now: datetime | None = None) -> int:
    """Note which gateways have gone silent, and forget those that have not been heard of for 60 seconds.

    Services lead to a silent one only where no other holds the tunnel.

    Returns:
        How many were forgotten.
    """
    now = now or timezone.now()
    gone = Gateway.objects.filter(last_seen_at__lt=now - GONE_AFTER)
    silent = Gateway.objects.filter(
        silent=False, last_seen_at__lt=now - SILENT_AFTER, last_seen_at__gte=now - GONE_AFTER
    )
    fallen_silent = list(silent.values_list("name", flat=True))
    Gateway.objects.filter(name__in=fallen_silent).update(silent=True)
    _announce(fallen_silent)
    names = list(gone.values_list("name", flat=True))
    _announce(names)
    return Gateway.objects.filter(name__in=names).delete()[0]


def _announce(names: list[str]) -> None:
    """Have the endpoints of what these gateways hold looked at again, by the worker and by the other gateways."""
    held = Session.objects.filter(gateway__in=names, closed_at=None).order_by("tunnel_id")
    tunnel_ids = list(held.values_list("tunnel_id", flat=True).distinct())
    touch_tunnels(tunnel_ids)
    publish_sessions_on_commit(tunnel_ids)
