"""Bring what has changed to the cluster: claim it, render it, apply it, say how it went.

Level-triggered: nothing remembers what a change was, only that there was one. Rows are read and written here, in one
thread and a few queries for each batch; threads only talk to the cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import DatabaseError
from django.utils import timezone

from portal.cluster import secrets
from portal.cluster.api import CONNECTIONS, ApiRefused, Unreachable
from portal.cluster.apply import NOT_REACHED, Change, Observed, Problem
from portal.cluster.conditions import UNREACHABLE, find_conditions
from portal.cluster.spec import TunnelSpec, read_customers, read_installation, read_restricted_ports, read_tunnels
from portal.cluster.target import Target
from portal.models import Customer, CustomerStatus, Leftover, Tunnel, TunnelStatus
from portal.services import tunnels, work

log = logging.getLogger(__name__)

BATCH: Final = 200
# The work on a batch ends well before its claims do: three rounds of the API, one call's time-outs behind each.
BATCH_SECONDS: Final = 25.0
SECRETS_SECONDS: Final = 15.0
RUN_SECONDS: Final = 60.0
PASSING: Final = frozenset({UNREACHABLE, "NamespaceTerminating", "NamespaceMissing", "Conflict"})


@dataclass
class Tally:
    """What a run did."""

    tunnels: int = 0
    customers: int = 0
    leftovers: int = 0
    written: int = 0
    problems: list[Problem] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.tunnels or self.customers or self.leftovers)


def reconcile_due(target: Target) -> Tally:
    """Do all the work there is, batch by batch, for a minute at most.

    Returns:
        What it came to.
    """
    work.begin_reconcile()
    tally = Tally()
    ends = monotonic() + RUN_SECONDS
    while monotonic() < ends:
        batch = Tally()
        for reconcile in (reconcile_leftovers, reconcile_customers, reconcile_tunnels):
            reconcile(target, batch)
        tally.tunnels += batch.tunnels
        tally.customers += batch.customers
        tally.leftovers += batch.leftovers
        tally.written += batch.written
        tally.problems += batch.problems
        if not batch:
            break
    return tally


def reconcile_tunnels(target: Target, tally: Tally) -> None:
    """Bring a batch of tunnels to what is desired."""
    with work.claim_work(TunnelStatus, BATCH) as claimed:
        statuses = {status.pk: status for status in claimed}
        specs = _read_with_ports(list(statuses)) if statuses else []
        if specs:
            _reconcile_batch(target, specs, statuses, tally)


def _reconcile_batch(
    target: Target, specs: Sequence[TunnelSpec], statuses: Mapping[int, TunnelStatus], tally: Tally
) -> None:
    is_restricted = any(
        spec.access or status.failures or spec.generation != status.observed_generation
        for spec, status in ((spec, statuses[spec.tunnel_id]) for spec in specs)
    )
    live, changes = _bring_tunnels(target, specs, is_restricted=is_restricted)
    _keep_secrets(target, specs, changes)
    found = {
        spec.tunnel_id: find_conditions(
            spec,
            change.problems,
            statuses[spec.tunnel_id].conditions,
            timezone.now(),
            in_place=target.in_place,
            refusal=statuses[spec.tunnel_id].refusal,
        )
        for spec, change in zip(specs, changes, strict=True)
    }
    told = _in_threads(specs, lambda spec: Change(int(target.write_status(spec, live, found[spec.tunnel_id]))))
    for spec, change, telling in zip(specs, changes, told, strict=True):
        _touch_missing_namespace(spec, change.problems)
        fields = {"conditions": found[spec.tunnel_id], "observed_generation": spec.generation}
        _record(statuses[spec.tunnel_id], fields, change.problems + telling.problems)
        tally.written += change.written + telling.written
        tally.problems += change.problems
    tally.tunnels += len(specs)


def _bring_tunnels(
    target: Target, specs: Sequence[TunnelSpec], *, is_restricted: bool
) -> tuple[Observed, list[Change]]:
    """Bring the objects of tunnels to what is desired; where one of them may be restricted that comes first."""
    ends = monotonic() + BATCH_SECONDS
    try:
        live = target.observe(specs)
        # A tunnel is closed to others before it is opened to its peers.
        policy = target.bring_policy(read_restricted_ports()) if is_restricted else Change()
        changes = _in_threads(specs, lambda spec: target.bring_tunnel(spec, live, ends))
    except (Unreachable, ApiRefused) as error:
        return Observed(read_installation()), [_note_failure(error) for _ in specs]
    for spec, change in zip(specs, changes, strict=True):
        change.problems[:0] = _find_missing_ports(spec)
        change.problems += policy.problems if spec.access else []
    changes[0].written += policy.written
    return live, changes


def _keep_secrets(target: Target, specs: Sequence[TunnelSpec], changes: Sequence[Change]) -> None:
    """Keep the Secrets of tunnels, in this thread because tokens are rows, until the API server falls silent."""
    ends = monotonic() + SECRETS_SECONDS
    for spec, change in zip(specs, changes, strict=True):
        if any(problem.reason == UNREACHABLE for problem in change.problems):
            continue
        if monotonic() > ends:
            change.problems.append(NOT_REACHED)
            continue
        if spec.blocked:
            continue
        problems = _keep_secret(target, spec)
        change.problems += problems
        if any(problem.reason == UNREACHABLE for problem in problems):
            ends = 0.0


def _keep_secret(target: Target, spec: TunnelSpec) -> list[Problem]:
    """Keep one Secret; what goes wrong with its rows is this tunnel's alone."""
    try:
        return secrets.keep_secret(target, spec)
    except DatabaseError as error:
        return [_note_fault(spec, error)]


def reconcile_customers(target: Target, tally: Tally) -> None:
    """Bring the namespaces of a batch of customers to what is desired."""
    with work.claim_work(CustomerStatus, BATCH) as claimed:
        statuses = {status.pk: status for status in claimed}
        specs = read_customers(list(statuses)) if statuses else []
        for spec, change in zip(specs, _in_threads(specs, target.bring_customer), strict=True):
            status = statuses[spec.customer_id]
            conditions = [
                {"type": "Degraded", "status": "True", "reason": one.reason, "message": one.message}
                for one in change.problems
            ]
            fields: dict[str, Any] = {"conditions": conditions}
            fields |= {"made_namespace": True} if change.made_namespace else {}
            _record(status, fields, change.problems)
            tally.written += change.written
            tally.problems += change.problems
            if change.written or conditions != status.conditions:
                # Its tunnels may have failed for want of the namespace.
                work.touch_tunnels(Tunnel.objects.filter(customer_id=spec.customer_id).values_list("pk", flat=True))
        tally.customers += len(specs)


def reconcile_leftovers(target: Target, tally: Tally) -> None:
    """Delete what deleted tunnels and customers have left in the cluster."""
    with work.claim_work(Leftover, BATCH) as leftovers:
        gone = [leftover for leftover in leftovers if not _is_there_again(leftover)]
        for leftover in leftovers:
            if leftover not in gone:
                work.drop_leftover(leftover)
        for leftover, change in zip(gone, _in_threads(gone, lambda one: _remove(target, one)), strict=True):
            tally.written += change.written
            tally.problems += change.problems
            if change.problems:
                _record(leftover, {}, change.problems)
            else:
                work.drop_leftover(leftover)
        tally.leftovers += len(leftovers)


def _read_with_ports(tunnel_ids: Sequence[int]) -> list[TunnelSpec]:
    """Read tunnels, after one more look for numbers to listen on where they have none."""
    specs = read_tunnels(tunnel_ids)
    lacking = [spec.tunnel_id for spec in specs if spec.missing_ports]
    if not lacking:
        return specs
    for tunnel in Tunnel.objects.filter(pk__in=lacking):
        try:
            found = tunnels.find_listen_ports(tunnel=tunnel)
        except (DatabaseError, Tunnel.DoesNotExist, ValidationError) as error:
            log.warning("%s: no look for numbers to listen on: %s", tunnel, _one_line(error))
            continue
        if found.ports.filter(listen_port=None).exists():
            break  # there are none for the others either
    return read_tunnels(tunnel_ids)


def _find_missing_ports(spec: TunnelSpec) -> list[Problem]:
    if not spec.missing_ports:
        return []
    ports = ", ".join(map(str, spec.missing_ports[:5]))
    return [
        Problem(
            "PortsExhausted",
            f"No number is free for gateways to listen on for {ports}. Widen MOORLINE_LISTEN_PORTS (listenPorts in the "
            "chart's values), or delete ports that are not needed.",
        )
    ]


def _in_threads(items: Sequence[Any], bring: Callable[[Any], Change]) -> list[Change]:
    """Bring each item, several at a time.

    After the first that finds the API server silent no more are tried: each would wait for its time-out.
    """
    ends = monotonic() + BATCH_SECONDS
    silent: list[Unreachable] = []

    def bring_one(item: Any) -> Change:
        if silent:
            return _note_failure(silent[0])
        if monotonic() > ends:
            return Change(problems=[NOT_REACHED])
        try:
            return bring(item)
        except Unreachable as error:
            silent.append(error)
            return _note_failure(error)
        except ApiRefused as error:
            return _note_failure(error)
        except Exception as error:  # a fault of ours with one of them is not to hold up the others
            return Change(problems=[_note_fault(item, error)])

    if len(items) < 2:
        return [bring_one(item) for item in items]
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="cluster") as threads:
        return list(threads.map(bring_one, items))


def _note_failure(error: Unreachable | ApiRefused) -> Change:
    if isinstance(error, Unreachable):
        message = f"The Kubernetes API server does not answer ({error}); this is tried again."
        return Change(problems=[Problem(UNREACHABLE, message)])
    reason = "Forbidden" if error.status == 403 else "Refused"
    return Change(problems=[Problem(reason, f"The Kubernetes API server refuses: {error.message}.")])


def _note_fault(item: Any, error: Exception) -> Problem:
    log.error("%s: a fault in the reconciler, please report this line: %r", item, error)
    return Problem("Fault", f"The worker failed at it ({type(error).__name__}); its log has more. This is tried again.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _touch_missing_namespace(spec: TunnelSpec, problems: Sequence[Problem]) -> None:
    """Have the namespace looked at where a tunnel found none."""
    if any(problem.reason == "NamespaceMissing" for problem in problems):
        work.touch_customers(Customer.objects.filter(name=spec.customer).values_list("pk", flat=True))


def _is_there_again(leftover: Leftover) -> bool:
    """Say whether somebody has made a tunnel or a customer of the name anew: its own work does the pruning."""
    if leftover.tunnel_name:
        rows = Tunnel.objects.filter(customer__name=leftover.customer_name, name=leftover.tunnel_name)
        return rows.exists()
    return Customer.objects.filter(name=leftover.customer_name).exists()


def _remove(target: Target, leftover: Leftover) -> Change:
    if leftover.tunnel_name:
        return target.remove_tunnel(leftover.customer_name, leftover.tunnel_name)
    return target.remove_customer(leftover.customer_name, made_namespace=leftover.made_namespace)


def _record(row: Any, changes: dict[str, Any], problems: Sequence[Problem]) -> None:
    """Write back how the work on a row went; problems that pass by themselves are logged quietly."""
    for problem in problems[:1]:
        say = log.info if problem.reason in PASSING or row.failures else log.warning
        say("%s: %s (%s)", row, problem.message, problem.reason)
    retry_after = 0.0 if NOT_REACHED in problems else None
    result = work.Result(row.claim, row.revision, changes, failed=bool(problems), retry_after=retry_after)
    work.record_result(row, result)
