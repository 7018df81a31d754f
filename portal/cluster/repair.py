"""Find what has drifted: objects that somebody changed or deleted, and objects of ours whose row is gone.

Nothing is written here. What drifted is left as work, and so takes the one way to the cluster that every change takes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from django.utils import timezone

from portal.cluster import secrets
from portal.cluster.apply import Observed
from portal.cluster.conditions import Condition, find_conditions
from portal.cluster.spec import TunnelSpec, read_customers, read_restricted_ports, read_tunnels
from portal.cluster.target import KubernetesTarget, Target
from portal.config.celery import SECRETS_SECONDS
from portal.models import CustomerStatus, Source, Tunnel, TunnelStatus
from portal.services import work

# How many Secrets are looked at in one go: a right to list them would be a right to read all of the cluster's.
SECRETS: Final = 200


@dataclass(frozen=True)
class Drift:
    """How much was found."""

    tunnels: int = 0
    customers: int = 0
    leftovers: int = 0


def find_drift(target: Target) -> Drift:
    """Compare everything that is desired with everything that is there, and leave what differs as work."""
    if not isinstance(target, KubernetesTarget):
        return Drift()
    live = target.observe_all()
    specs = read_tunnels()
    settled = {row.pk: row for row in TunnelStatus.objects.all()}
    drifted = [spec.tunnel_id for spec in specs if _has_drifted(target, spec, live, settled)]
    work.touch_tunnels(drifted)
    target.bring_policy(read_restricted_ports())
    customers = _find_drifted_customers(target, live)
    work.touch_customers(customers)
    return Drift(len(drifted), len(customers), _leave_orphans(specs, live))


def check_secrets(target: Target) -> int:
    """Look at the Secrets of some tunnels that resources asked for; one that was deleted is made with a new token.

    Returns:
        How many were not as they should be.
    """
    if not isinstance(target, KubernetesTarget):
        return 0
    ids = list(Tunnel.objects.filter(source=Source.RESOURCE).order_by("pk").values_list("pk", flat=True))
    # Another part at each look, so that every one has its turn.
    parts = -(-len(ids) // SECRETS) or 1
    part = int(time.time() // SECRETS_SECONDS) % parts
    chosen = ids[part * SECRETS : (part + 1) * SECRETS]
    wrong = [spec.tunnel_id for spec in read_tunnels(chosen) if not secrets.is_kept(target, spec)] if chosen else []
    work.touch_tunnels(wrong)
    return len(wrong)


def _has_drifted(target: KubernetesTarget, spec: TunnelSpec, live: Observed, settled: dict[int, TunnelStatus]) -> bool:
    status = settled.get(spec.tunnel_id)
    if status is None or status.revision > status.applied_revision:
        return False  # there is work on it already
    if spec.blocked or (target.installation.scope and spec.customer != target.installation.scope):
        return False
    return (
        not target.is_as_desired(spec, live)
        or target.has_other_status(spec, live, status.conditions)
        or _reasons(status.conditions) != _reasons(_expect_conditions(target, spec, status))
    )


def _expect_conditions(target: KubernetesTarget, spec: TunnelSpec, status: TunnelStatus) -> list[Condition]:
    """Say how a tunnel is now that is as desired: time alone may have changed that, as when it expires."""
    return find_conditions(
        spec, [], status.conditions, timezone.now(), in_place=target.in_place, refusal=status.refusal
    )


def _reasons(conditions: list[Condition]) -> dict[str, str]:
    return {condition["type"]: condition["reason"] for condition in conditions}


def _find_drifted_customers(target: KubernetesTarget, live: Observed) -> list[int]:
    settled = {row.pk for row in CustomerStatus.objects.all() if row.revision <= row.applied_revision}
    return [
        spec.customer_id
        for spec in read_customers()
        if spec.customer_id in settled and target.has_customer_drifted(spec, live)
    ]


def _leave_orphans(specs: list[TunnelSpec], live: Observed) -> int:
    """Leave work for each tunnel that has objects of ours in the cluster and no row."""
    orphans = live.tunnels - {(spec.customer, spec.name) for spec in specs}
    for customer, tunnel in sorted(orphans):
        work.leave_over(customer_name=customer, tunnel_name=tunnel)
    return len(orphans)
