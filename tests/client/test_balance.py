"""Upstreams of one route take turns; one that fails rests, longer each time, and is never given up."""

from __future__ import annotations

from tunnels.client.balance import FIRST_REST, LONGEST_REST, Balance
from tunnels.client.upstreams import parse_upstream


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_balance(*hosts: str) -> tuple[Balance, Clock]:
    clock = Clock()
    return Balance([parse_upstream(f"1={host}:1") for host in hosts], clock), clock


def order(balance: Balance) -> str:
    return "".join(health.upstream.host for health in balance.order())


def test_upstreams_take_turns() -> None:
    balance, _ = make_balance("a", "b", "c")
    assert [order(balance) for _ in range(4)] == ["abc", "bca", "cab", "abc"]


def test_one_that_failed_comes_last_until_it_has_rested() -> None:
    balance, clock = make_balance("a", "b", "c")
    balance.members[0].note_failure(clock.now)
    assert [order(balance) for _ in range(3)] == ["bca", "bca", "cba"]
    clock.now += FIRST_REST
    assert order(balance) == "abc"


def test_each_failure_doubles_the_rest_up_to_a_bound() -> None:
    balance, clock = make_balance("a", "b")
    health = balance.members[0]
    rests = []
    for _ in range(8):
        health.note_failure(clock.now)
        rests.append(health.rests_until - clock.now)
        clock.now = health.rests_until
    assert rests == [2, 4, 8, 16, 32, LONGEST_REST, LONGEST_REST, LONGEST_REST]
    health.note_success()
    health.note_failure(clock.now)
    assert health.rests_until - clock.now == FIRST_REST


def test_dials_that_fail_together_count_once() -> None:
    balance, clock = make_balance("a", "b")
    for _ in range(100):
        balance.members[0].note_failure(clock.now)
    assert balance.members[0].failures == 1


def test_when_all_rest_all_are_tried_the_longest_rested_first() -> None:
    balance, clock = make_balance("a", "b")
    balance.members[1].note_failure(clock.now)
    clock.now += 1
    balance.members[0].note_failure(clock.now)
    assert [order(balance), order(balance)] == ["ba", "ba"]
