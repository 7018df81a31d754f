"""The first page: how many of what, and how every tunnel is."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from portal import queries
from portal.addresses import service_name
from portal.admin.labels import label_tunnel, list_some, shorten
from portal.queries import TunnelState

SHOWN_TUNNELS = 100
SHOWN_EVENTS = 10


def add_dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add what the first page shows, as far as the person may see it."""
    if request.user.has_perm("portal.view_tunnel"):
        rows = [_describe(tunnel) for tunnel in queries.tunnels_by_need()[:SHOWN_TUNNELS]]
        context |= {"totals": queries.count_totals(), "tunnels": rows, "shown_tunnels": SHOWN_TUNNELS}
    if request.user.has_perm("portal.view_event"):
        context["events"] = queries.recent_events(SHOWN_EVENTS)
    return context


def _describe(tunnel: Any) -> dict[str, Any]:
    return {
        "pk": tunnel.pk,
        "address": shorten(service_name(tunnel)),
        "customer": shorten(tunnel.customer.display_name or tunnel.customer.name),
        "label": label_tunnel(TunnelState(tunnel.state)),
        "clients": tunnel.live_session_count,
        "ports": list_some([str(port.port) for port in tunnel.ports.all() if port.kind == "tcp"]),
        "hosts": list_some([host.name for host in tunnel.hosts.all()]),
    }
