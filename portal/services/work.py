"""The work that changes leave behind for the reconciler: mark it, claim it, say how it went."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from portal.models import CustomerStatus, Leftover, TunnelStatus, Work

# A claim outlives the work it is for: every call to the cluster has a time-out, and the sum of them ends before.
CLAIM_FOR = timedelta(seconds=120)
FIRST_DELAY = 1.0  # seconds
LONGEST_DELAY = 60.0
REDIS_TIMEOUT_SECONDS = 1.0
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


def touch_tunnels(tunnel_ids: Iterable[int]) -> None:
    """Leave the reconciler work on these tunnels: what is desired of them, or where they answer, has changed."""
    _touch(TunnelStatus.objects.filter(pk__in=list(tunnel_ids)))


def touch_customers(customer_ids: Iterable[int]) -> None:
    """Leave the reconciler work on the namespaces of these customers."""
    _touch(CustomerStatus.objects.filter(pk__in=list(customer_ids)))


def leave_over(*, customer_name: str, tunnel_names: Collection[str] = (), whole_customer: bool = False) -> None:
    """Note what a deleted customer or its deleted tunnels may have left in the cluster."""
    for name in [*tunnel_names, *([""] if whole_customer else [])]:
        leftover, is_new = Leftover.objects.get_or_create(customer_name=customer_name, tunnel_name=name)
        if not is_new:
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
        with _redis() as client:
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
        with _redis() as client:
            client.delete(QUEUED_KEY)
    except (RedisError, OSError):
        return  # the key expires by itself


def claim_work(kind: type[AnyWork], limit: int, now: datetime | None = None) -> list[AnyWork]:
    """Claim up to *limit* rows of one kind that have work to do and that nobody else does.

    Returns:
        The rows as they are now, the longest waiting first.
    """
    now = now or timezone.now()
    free = Q(claimed_until=None) | Q(claimed_until__lt=now)
    due = Q(revision__gt=F("applied_revision")) & (Q(retry_at=None) | Q(retry_at__lte=now))
    ids = list(kind._default_manager.filter(due, free).order_by("retry_at", "pk").values_list("pk", flat=True)[:limit])
    claim = uuid4()
    # Two workers may find the same rows; the second one's update no longer finds them free.
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


def drop_leftover(leftover: Leftover, claim: UUID) -> None:
    """Forget a leftover whose objects are gone, unless more was left over under its name meanwhile."""
    if not Leftover.objects.filter(pk=leftover.pk, claim=claim, revision=leftover.revision).delete()[0]:
        Leftover.objects.filter(pk=leftover.pk, claim=claim).update(claim=None, claimed_until=None)


def _touch(rows: Any) -> None:
    if rows.update(revision=F("revision") + 1, retry_at=None):
        queue_reconcile_on_commit()


def _next_delay(failures: int) -> float:
    longest = min(FIRST_DELAY * 2.0 ** min(failures - 1, 16), LONGEST_DELAY)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


def _redis() -> redis.Redis:
    return redis.Redis.from_url(
        settings.MOORLINE_REDIS_URL,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
