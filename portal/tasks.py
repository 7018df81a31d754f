"""What the worker does by the clock. Each task may run twice, or at two workers at once, without harm."""

from __future__ import annotations

from portal import queries
from portal.config.celery import app
from portal.notices import publish_tunnels
from portal.services import sessions


@app.task
def sweep_stale_sessions() -> int:
    """Close the sessions of gateways that went silent."""
    return sessions.sweep_stale_sessions()


@app.task
def announce_lapsed_sessions() -> int:
    """Tell the gateways of live sessions whose token has expired, or whose end they have not heard of.

    Repeated until the gateway has ended the session, so nothing needs to be remembered.
    """
    tunnel_ids = queries.lapsed_tunnel_ids()
    publish_tunnels(tunnel_ids)
    return len(tunnel_ids)


@app.task
def prune_closed_sessions() -> int:
    """Forget sessions that closed a month ago."""
    return sessions.prune_closed_sessions()
