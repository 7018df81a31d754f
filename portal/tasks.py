"""What workers do, by the clock and when asked. Each task may run twice, or at two workers at once, without harm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from portal import queries
from portal.cluster import repair
from portal.cluster.api import ApiRefused, ClusterNotConfigured, Unreachable
from portal.cluster.reconcile import reconcile_due as reconcile
from portal.cluster.target import Target, make_target
from portal.config.celery import app
from portal.notices import publish_tunnels
from portal.services import gateways, ports, sessions

log = logging.getLogger(__name__)


@app.task(soft_time_limit=200, time_limit=220)
def reconcile_due() -> int:
    """Bring to the cluster what has changed; asked for by every change, and by beat for what was to be tried again."""
    try:
        tally = reconcile(make_target())
    except ClusterNotConfigured as error:
        log.error("%s", error)
        return 0
    if tally.written:
        log.info(
            "reconciled %d tunnels, %d customers and %d that are gone with %d writes",
            *(tally.tunnels, tally.customers, tally.leftovers, tally.written),
        )
    return tally.tunnels


@app.task
def repair_drift() -> None:
    """Look for what others changed in the cluster, and for what has no row any more."""
    _look(repair.find_drift, "drift")


@app.task
def check_secrets() -> None:
    """Look whether the Secrets that Tunnel resources asked for still hold a token that opens."""
    _look(repair.check_secrets, "Secrets")


@app.task
def sweep_stale_sessions() -> int:
    """Close the sessions of gateways that went silent, and forget these gateways."""
    gateways.sweep_gone_gateways()
    return sessions.sweep_stale_sessions()


@app.task
def announce_lapsed_sessions() -> int:
    """Tell the gateways of live sessions whose token or tunnel has expired, or whose end they have not heard of.

    Repeated until the gateway has ended the session, so nothing needs to be remembered.
    """
    tunnel_ids = queries.lapsed_tunnel_ids()
    publish_tunnels(tunnel_ids)
    return len(tunnel_ids)


def _look(look: Callable[[Target], Any], what: str) -> None:
    try:
        look(make_target())
    except (ApiRefused, ClusterNotConfigured, Unreachable) as error:
        log.warning("could not look for %s in the cluster: %s", what, error)


@app.task
def prune_closed_sessions() -> int:
    """Forget sessions that closed a month ago, and listen ports that were given back long ago."""
    ports.prune_released_ports()
    return sessions.prune_closed_sessions()
