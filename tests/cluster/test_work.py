"""Work is claimed by one worker, tried again later each time, and never lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.utils import timezone

from portal.models import Leftover, Tunnel, TunnelStatus
from portal.services import work
from portal.services.tunnels import create_tunnel, delete_tunnel, disable_tunnel
from tests.conftest import STAFF

pytestmark = pytest.mark.django_db

Claim = Callable[..., list[Any]]


@pytest.fixture
def claim() -> Iterator[Callable[..., list[Any]]]:
    """Claim rows as a worker does that is at work on them until the test ends."""
    with ExitStack() as workers:
        yield lambda now=None, kind=TunnelStatus, limit=10: workers.enter_context(work.claim_work(kind, limit, now))


def result_of(status: TunnelStatus, **changes: Any) -> work.Result:
    assert status.claim is not None
    return work.Result(status.claim, status.revision, {}, **changes)


def test_a_new_tunnel_is_work_until_it_is_done(prod: Tunnel, claim: Claim) -> None:
    (status,) = claim()
    assert status.pk == prod.pk
    assert work.record_result(status, result_of(status))
    assert claim() == []


def test_what_is_claimed_is_nobody_elses_until_the_claim_lapses(prod: Tunnel, claim: Claim) -> None:
    assert claim()
    assert claim() == []
    assert claim(timezone.now() + work.CLAIM_FOR + timedelta(seconds=1))


def test_a_change_meanwhile_leaves_the_work_to_do_and_the_row_as_it_was(prod: Tunnel, claim: Claim) -> None:
    (status,) = claim()
    disable_tunnel(tunnel=prod, actor=STAFF)
    old = work.Result(status.claim or uuid4(), status.revision, {"conditions": ["old"]})
    assert not work.record_result(status, old)
    (again,) = claim()
    assert (again.revision, again.conditions) == (status.revision + 1, [])


def test_who_lost_the_claim_writes_nothing(prod: Tunnel, claim: Claim) -> None:
    (slow,) = claim()
    (quick,) = claim(timezone.now() + work.CLAIM_FOR * 2)
    result = work.Result(slow.claim or uuid4(), slow.revision, {"conditions": ["slow"]})
    assert not work.record_result(slow, result)
    row = TunnelStatus.objects.get(pk=prod.pk)
    assert (row.claim, row.conditions) == (quick.claim, [])


def test_failed_work_waits_longer_each_time_up_to_a_minute(prod: Tunnel, claim: Claim) -> None:
    now = timezone.now()
    waits = []
    for _ in range(9):
        (status,) = claim(now)
        work.record_result(status, result_of(status, failed=True), now)
        row = TunnelStatus.objects.get(pk=prod.pk)
        assert row.retry_at is not None
        assert claim(now) == []
        waits.append((row.retry_at - now).total_seconds())
        now = row.retry_at
    for wait, longest in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert longest / 2 <= wait <= longest


def test_a_change_is_not_kept_waiting_by_what_failed_before(prod: Tunnel, claim: Claim) -> None:
    (status,) = claim()
    disable_tunnel(tunnel=prod, actor=STAFF)
    work.record_result(status, result_of(status, failed=True))
    assert claim()


def test_a_deleted_tunnel_leaves_work_that_ends_with_it(prod: Tunnel, claim: Claim) -> None:
    delete_tunnel(tunnel=prod, actor=STAFF)
    with work.claim_work(Leftover, 10) as (leftover,):
        assert str(leftover) == "acmeco/prod"
        work.leave_over(customer_name="acmeco", tunnel_name="prod")  # made and deleted once more
        work.drop_leftover(leftover)
    with work.claim_work(Leftover, 10) as (again,):
        work.drop_leftover(again)
    assert not Leftover.objects.exists()


def test_work_that_something_went_wrong_with_is_let_go_of(prod: Tunnel, claim: Claim) -> None:
    with pytest.raises(RuntimeError), work.claim_work(TunnelStatus, 10):
        raise RuntimeError
    assert claim()


def test_changes_come_before_what_failed(prod: Tunnel, claim: Claim) -> None:
    now = timezone.now()
    with work.claim_work(TunnelStatus, 10, now) as (status,):
        work.record_result(status, result_of(status, failed=True), now)
    fresh = create_tunnel(customer=prod.customer, name="fresh", actor=STAFF)
    later = now + timedelta(seconds=10)
    assert [row.pk for row in claim(later, limit=1)] == [fresh.pk]
    assert [row.pk for row in claim(later)] == [prod.pk]


def test_nobodys_leftover_is_refused() -> None:
    with pytest.raises(ValueError, match="somebody"):
        work.leave_over(customer_name="", tunnel_name="prod")


def test_a_thousand_changes_are_one_message(valkey: redis.Redis, commit: Any, prod: Tunnel) -> None:
    valkey.delete("celery", work.QUEUED_KEY)
    with commit():
        for _ in range(20):
            work.touch_tunnels([prod.pk])
    assert valkey.llen("celery") == 1
    work.begin_reconcile()
    with commit():
        work.touch_tunnels([prod.pk])
    assert valkey.llen("celery") == 2
