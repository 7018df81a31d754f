"""The work that changes leave behind for the reconciler: mark it, claim it, say how it went."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from portal.models import CustomerStatus, Leftover, TunnelStatus, Work
from portal.notices import connect_redis

# A claim outlives the work it is for: every call to the cluster has a time-out, and the sum of them ends before.
CLAIM_FOR = timedelta(seconds=120)
FIRST_DELAY = 1.0  # seconds
LONGEST_DELAY = 60.0
# While this key is there a worker has been asked and has not begun: one message stands for a thousand changes.
QUEUED_KEY = "moorline:reconcile-queued"
QUEUED_SECONDS = 5
MESSAGE_SECONDS = 60
TASK = "portal.tasks.reconcile_due"

log = logging.getLogger(__name__)

AnyWork = TypeVar("AnyWork", bound=Work)


@dataclass(frozen=True)
class Result:
    """How the work on one row went.

    Args:
        claim: what the row was claimed with.
        revision: the revision that the work was done for.
        changes: further fields of the row, such as its conditions.
        failed: whether it is to be tried again, later each time.
        retry_after: seconds, where it is known better when.
    """

    claim: UUID
    revision: int
    changes: dict[str, Any]
    failed: bool = False
    retry_after: float | None = None


@transaction.atomic
def touch_tunnels(tunnel_ids: Iterable[int]) -> None:
    """Leave the reconciler work on these tunnels: what is desired of them, or where they answer, has changed."""
    _touch(TunnelStatus.objects.filter(pk__in=list(tunnel_ids)))


@transaction.atomic
def touch_customers(customer_ids: Iterable[int]) -> None:
    """Leave the reconciler work on the namespaces of these customers."""
    _touch(CustomerStatus.objects.filter(pk__in=list(customer_ids)))


@transaction.atomic
def leave_over(*, customer_name: str, tunnel_name: str = "", made_namespace: bool = False) -> None:
    """Note what a deleted tunnel, or without a *tunnel_name* a deleted customer, may have left in the cluster.

    Args:
        made_namespace: whether the customer's namespace is ours, and goes too.
    """
    if not customer_name:
        raise ValueError("a leftover is somebody's")
    leftover, is_new = Leftover.objects.get_or_create(
        customer_name=customer_name, tunnel_name=tunnel_name, defaults={"made_namespace": made_namespace}
    )
    if not is_new:
        Leftover.objects.filter(pk=leftover.pk).update(made_namespace=made_namespace)
        _touch(Leftover.objects.filter(pk=leftover.pk))
    queue_reconcile_on_commit()


def queue_reconcile_on_commit() -> None:
    """Ask for a worker once the transaction around this call is committed."""
    transaction.on_commit(queue_reconcile)


def queue_reconcile() -> None:
    """Ask for a worker, unless one has been asked and has not begun; where Redis fails, beat asks seconds later."""
    if not settings.MOORLINE_REDIS_URL:
        return
    from portal.config.celery import app  # noqa: PLC0415 - the settings have to be complete

    try:
        with connect_redis() as client:
            if client.set(QUEUED_KEY, "1", nx=True, ex=QUEUED_SECONDS):
                with app.connection_for_write(url=settings.MOORLINE_REDIS_URL) as connection:
                    app.send_task(TASK, connection=connection, retry=False, expires=MESSAGE_SECONDS)
    except (RedisError, OperationalError, OSError) as error:
        log.warning("Redis took no message for a worker (%s); beat asks for one every few seconds.", error)


def begin_reconcile() -> None:
    """Say that a worker begins: what changes from now on asks for another one."""
    if not settings.MOORLINE_REDIS_URL:
        return
    try:
        with connect_redis() as client:
            client.delete(QUEUED_KEY)
    except (RedisError, OSError):
        return  # the key expires by itself


@contextmanager
def claim_work(kind: type[AnyWork], limit: int, now: datetime | None = None) -> Iterator[list[AnyWork]]:
    """Claim up to *limit* rows of one kind that have work to do and that nobody else does.

    Yields:
        The rows as they are now, new changes before what failed, the longest waiting first. What has no result in the
        end, because something went wrong, is let go of.
    """
    claim = uuid4()
    rows = _claim(kind, limit, claim, now or timezone.now())
    try:
        yield rows
    finally:
        if rows:
            kind._default_manager.filter(claim=claim).update(claim=None, claimed_until=None)


@transaction.atomic
def _claim(kind: type[AnyWork], limit: int, claim: UUID, now: datetime) -> list[AnyWork]:
    free = Q(claimed_until=None) | Q(claimed_until__lt=now)
    due = Q(revision__gt=F("applied_revision")) & (Q(retry_at=None) | Q(retry_at__lte=now))
    found = kind._default_manager.filter(due, free).order_by(F("retry_at").asc(nulls_first=True), "pk")
    # Another worker may be looking at the same rows: what it has locked is its to claim.
    ids = list(found.select_for_update(skip_locked=True).values_list("pk", flat=True)[:limit])
    kind._default_manager.filter(free, pk__in=ids).update(claim=claim, claimed_until=now + CLAIM_FOR)
    return list(kind._default_manager.filter(claim=claim).order_by("pk")) if ids else []


@transaction.atomic
def record_result(row: Work, result: Result, now: datetime | None = None) -> bool:
    """Write back how the work on a row went, and let go of it.

    Nothing is written where the row was claimed by another worker meanwhile. Where its revision has moved on, what was
    found is kept and the work stays to do.

    Returns:
        Whether the row is done.
    """
    now = now or timezone.now()
    failures = row.failures + 1 if result.failed else 0
    fields: dict[str, Any] = {**result.changes, "claim": None, "claimed_until": None, "failures": failures}
    kind = type(row)
    mine = kind._default_manager.filter(pk=row.pk, claim=result.claim)
    if result.failed:
        delay = result.retry_after if result.retry_after is not None else _next_delay(failures)
        # A change that came meanwhile has emptied `retry_at`, and is not to wait.
        is_latest = mine.filter(revision=result.revision)
        if not is_latest.update(**fields, retry_at=now + timedelta(seconds=delay)):
            mine.update(**fields)
        return False
    if mine.filter(revision=result.revision).update(**fields, applied_revision=result.revision, retry_at=None):
        return True
    # Of an older generation than the row is of now, so the conditions stay as they are.
    mine.update(claim=None, claimed_until=None, retry_at=None)
    return False


def drop_leftover(leftover: Leftover) -> None:
    """Forget a claimed leftover whose objects are gone, unless more was left over under its name meanwhile."""
    Leftover.objects.filter(pk=leftover.pk, claim=leftover.claim, revision=leftover.revision).delete()


def _touch(rows: Any) -> None:
    # In one order, so that two who touch the same rows wait for each other and never both.
    ids = list(rows.order_by("pk").select_for_update().values_list("pk", flat=True))
    if rows.model._default_manager.filter(pk__in=ids).update(revision=F("revision") + 1, retry_at=None):
        queue_reconcile_on_commit()


def _next_delay(failures: int) -> float:
    longest = min(FIRST_DELAY * 2.0 ** min(failures - 1, 16), LONGEST_DELAY)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
