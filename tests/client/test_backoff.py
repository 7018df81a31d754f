"""Attempts come slower and slower, jittered, and from the start again only after a connection that lasted."""

from __future__ import annotations

import pytest

from tunnels.client.backoff import LONGEST, STEADY, Backoff, Pace


def highest(low: float, high: float) -> float:
    return high


def lowest(low: float, high: float) -> float:
    return low


def test_delays_double_to_half_a_minute() -> None:
    backoff = Backoff(highest)
    assert [backoff.next_delay(Pace.BACKOFF) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, LONGEST, LONGEST, LONGEST]


def test_jitter_takes_up_to_half_of_a_delay() -> None:
    backoff = Backoff(lowest)
    assert [backoff.next_delay(Pace.BACKOFF) for _ in range(7)] == [0.25, 0.5, 1, 2, 4, 8, LONGEST / 2]


def test_a_connection_that_broke_at_once_does_not_start_the_delays_anew() -> None:
    backoff = Backoff(highest)
    for _ in range(3):
        backoff.next_delay(Pace.BACKOFF)
    backoff.note_connection(STEADY - 0.1)
    assert backoff.next_delay(Pace.BACKOFF) == 4
    backoff.note_connection(STEADY)
    assert backoff.next_delay(Pace.BACKOFF) == 0.5


def test_at_once_is_at_once_only_after_a_connection_that_lasted() -> None:
    backoff = Backoff(lowest)
    assert [backoff.next_delay(Pace.AT_ONCE) for _ in range(4)] == [0, 0.5, 1, 2]
    backoff.note_connection(STEADY)
    assert backoff.next_delay(Pace.AT_ONCE) == 0


@pytest.mark.parametrize(("pace", "low", "high"), [(Pace.MEDIUM, 8, 15), (Pace.SLOW, 30, 60)])
def test_other_paces_neither_grow_nor_make_the_backoff_grow(pace: Pace, low: float, high: float) -> None:
    backoff = Backoff(highest)
    assert {backoff.next_delay(pace) for _ in range(5)} == {high}
    assert backoff.next_delay(Pace.BACKOFF) == 0.5
    assert Backoff(lowest).next_delay(pace) == low


def test_what_the_gateway_asked_for_is_kept_and_jittered_upwards() -> None:
    assert Backoff(lowest).next_delay(Pace.AT_ONCE, at_least=20) == 20
    assert Backoff(highest).next_delay(Pace.AT_ONCE, at_least=20) == 25


def test_two_clients_do_not_come_back_in_one_moment() -> None:
    assert Backoff().next_delay(Pace.SLOW) != Backoff().next_delay(Pace.SLOW)
