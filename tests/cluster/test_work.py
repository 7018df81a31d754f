"""Work is claimed by one worker, tried again later each time, and never lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.utils import timezone

from portal.models import Leftover, Tunnel, TunnelStatus
from portal.services import work
from portal.services.tunnels import delete_tunnel, disable_tunnel
from tests.conftest import STAFF

pytestmark = pytest.mark.django_db


def claim(now: datetime | None = None) -> list[TunnelStatus]:
    return work.claim_work(TunnelStatus, 10, now)


def result_of(status: TunnelStatus, **changes: Any) -> work.Result:
    assert status.claim is not None
    return work.Result(status.claim, status.revision, {}, **changes)


def test_a_new_tunnel_is_work_until_it_is_done(prod: Tunnel) -> None:
    (status,) = claim()
    assert status.pk == prod.pk
    assert work.record_result(status, result_of(status))
    assert claim() == []


def test_what_is_claimed_is_nobody_elses_until_the_claim_lapses(prod: Tunnel) -> None:
    assert claim()
    assert claim() == []
    assert claim(timezone.now() + work.CLAIM_FOR + timedelta(seconds=1))


def test_a_change_meanwhile_leaves_the_work_to_do_and_the_row_as_it_was(prod: Tunnel) -> None:
    (status,) = claim()
    disable_tunnel(tunnel=prod, actor=STAFF)
    old = work.Result(status.claim or uuid4(), status.revision, {"conditions": ["old"]})
    assert not work.record_result(status, old)
    (again,) = claim()
    assert (again.revision, again.conditions) == (status.revision + 1, [])


def test_who_lost_the_claim_writes_nothing(prod: Tunnel) -> None:
    (slow,) = claim()
    (quick,) = claim(timezone.now() + work.CLAIM_FOR * 2)
    result = work.Result(slow.claim or uuid4(), slow.revision, {"conditions": ["slow"]})
    assert not work.record_result(slow, result)
    row = TunnelStatus.objects.get(pk=prod.pk)
    assert (row.claim, row.conditions) == (quick.claim, [])


def test_failed_work_waits_longer_each_time_up_to_a_minute(prod: Tunnel) -> None:
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


def test_a_change_is_not_kept_waiting_by_what_failed_before(prod: Tunnel) -> None:
    (status,) = claim()
    disable_tunnel(tunnel=prod, actor=STAFF)
    work.record_result(status, result_of(status, failed=True))
    assert claim()


def test_a_deleted_tunnel_leaves_work_that_ends_with_it(prod: Tunnel) -> None:
    delete_tunnel(tunnel=prod, actor=STAFF)
    (leftover,) = work.claim_work(Leftover, 10)
    assert str(leftover) == "acmeco/prod"
    assert leftover.claim is not None
    work.leave_over(customer_name="acmeco", tunnel_names=["prod"])  # made and deleted once more
    work.drop_leftover(leftover, leftover.claim)
    (again,) = work.claim_work(Leftover, 10)
    assert again.claim is not None
    work.drop_leftover(again, again.claim)
    assert not Leftover.objects.exists()


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
