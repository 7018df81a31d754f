"""The audit trail: who did what, from where."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from portal.models import Customer, Event, Tunnel


@dataclass(frozen=True)
class Actor:
    """Who asks for a write: a member of staff, a command or a part of Moorline, and the address it came from."""

    name: str
    address: str | None = None


def record_event(
    *,
    actor: Actor,
    verb: str,
    customer: Customer | None = None,
    tunnel: Tunnel | None = None,
    details: dict[str, Any] | None = None,
) -> Event:
    """Write one line of the audit trail, inside the transaction of what it tells of.

    Args:
        actor: who did it.
        verb: what was done, as ``tunnel.create``.
        customer: whom it concerns; the tunnel's customer when left out.
        tunnel: the tunnel it concerns.
        details: what else is worth knowing, JSON-serialisable; never a secret.
    """
    if tunnel is not None:
        customer = tunnel.customer
    return Event.objects.create(
        actor=actor.name[:150],
        source_address=_read_address(actor.address),
        customer=customer,
        customer_name=customer.name if customer else "",
        tunnel=tunnel,
        tunnel_name=tunnel.name if tunnel else "",
        verb=verb,
        details=details or {},
    )


def _read_address(address: str | None) -> str | None:
    """Give back an IP address, or nothing for what is none, as with a request over a Unix socket."""
    try:
        return str(ipaddress.ip_address(address or ""))
    except ValueError:
        return None
