"""Credit: the growth rule, the budget, the overrun, and arithmetic that holds after any history."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tunnels.protocol import ErrorCode, ProtocolError
from tunnels.protocol.frames import MAX_WINDOW
from tunnels.protocol.windows import GrowthBudget, ReceiveWindow, SendWindow

ROUND_TRIP = 0.1


def fill_and_consume(window: ReceiveWindow, now: float, round_trip: float | None = ROUND_TRIP) -> int:
    """Receive half of *window*, consume it at *now* and return the grant."""
    half = window.size - window.size // 2
    window.receive(half)
    return window.consume(half, now, round_trip)


def test_credit_is_granted_at_half_the_window_where_nothing_is_held():
    window = ReceiveWindow(1000)
    window.receive(500)
    assert window.consume(499, 1.0, None) == 0
    assert window.consume(1, 1.0, None) == 500
    assert (window.credit, window.unconsumed) == (1000, 0)


def test_credit_is_granted_while_others_hold_more_than_half_the_window():
    window = ReceiveWindow(1000)
    window.receive(1000)
    assert window.consume(249, 1.0, None) == 0
    assert window.consume(1, 1.0, None) == 250
    assert (window.credit, window.unconsumed) == (250, 750)
    window.receive(250)
    assert window.consume(250, 1.0, None) == 250


def test_no_crumbs_are_granted():
    window = ReceiveWindow(64 << 20)
    window.receive(64 << 20)
    assert window.consume(65_535, 1.0, None) == 0
    assert window.consume(1, 1.0, None) == 65_536


def test_a_window_whose_credit_runs_out_within_two_round_trips_doubles():
    window = ReceiveWindow(1000, ceiling=8000, budget=GrowthBudget(8000))
    fill_and_consume(window, 10.0)
    assert fill_and_consume(window, 10.0 + 1.9 * ROUND_TRIP) == 500 + 1000
    assert window.size == 2000


def test_a_window_whose_source_is_slow_keeps_its_size():
    window = ReceiveWindow(1000, ceiling=8000, budget=GrowthBudget(8000))
    fill_and_consume(window, 10.0)
    assert fill_and_consume(window, 10.0 + 2.0 * ROUND_TRIP + 1e-6) == 500
    assert window.size == 1000


def test_the_first_grant_never_grows_a_window():
    window = ReceiveWindow(1000, ceiling=8000, budget=GrowthBudget(8000))
    fill_and_consume(window, 10.0)
    assert window.size == 1000


def test_a_window_does_not_grow_before_the_round_trip_is_known():
    window = ReceiveWindow(1000, ceiling=8000, budget=GrowthBudget(8000))
    for turn in range(3):
        fill_and_consume(window, 10.0 + turn * 1e-6, None)
    assert window.size == 1000


def test_a_window_grows_to_its_ceiling_and_no_further():
    window = ReceiveWindow(1000, ceiling=3000, budget=GrowthBudget(10**6))
    for turn in range(6):
        fill_and_consume(window, 10.0 + turn * 0.001)
    assert window.size == 3000


def test_all_windows_together_grow_by_the_budget_and_no_more():
    budget = GrowthBudget(1500)
    windows = [ReceiveWindow(1000, ceiling=10**6, budget=budget) for _ in range(3)]
    for turn in range(6):
        for window in windows:
            fill_and_consume(window, 10.0 + turn * 0.001)
    assert sum(window.size for window in windows) == 3 * 1000 + 1500
    assert budget.left == 0


def test_a_window_that_stops_growing_gives_its_growth_back_once():
    budget = GrowthBudget(4000)
    window = ReceiveWindow(1000, ceiling=10**6, budget=budget)
    for turn in range(3):
        fill_and_consume(window, 10.0 + turn * 0.001)
    assert budget.left == 1000
    window.stop_growing()
    window.stop_growing()
    assert budget.left == 4000
    fill_and_consume(window, 10.01)
    assert budget.left == 4000


def test_more_than_the_credit_is_an_overrun():
    window = ReceiveWindow(1000)
    window.receive(1000)
    with pytest.raises(ProtocolError) as caught:
        window.receive(1)
    assert caught.value.code is ErrorCode.WINDOW_OVERRUN


def test_a_credit_over_the_highest_is_an_overrun():
    window = SendWindow(MAX_WINDOW - 5)
    window.grant(5)
    with pytest.raises(ProtocolError) as caught:
        window.grant(1)
    assert caught.value.code is ErrorCode.WINDOW_OVERRUN


def test_sending_more_than_the_credit_is_a_fault_of_the_caller():
    window = SendWindow(10)
    with pytest.raises(ValueError, match="a credit of 10"):
        window.spend(11)
    assert window.credit == 10


class Credit(RuleBasedStateMachine):
    """One direction of two streams that grow out of one budget: sender, path, receiver."""

    @initialize(size=st.integers(1, 64), budget=st.integers(0, 200), ceiling=st.integers(0, 256))
    def begin(self, size: int, budget: int, ceiling: int) -> None:
        self.now = 1.0
        self.initial = size
        self.total = budget
        self.ceiling = max(ceiling, size)
        self.budget = GrowthBudget(budget)
        self.senders = [SendWindow(size) for _ in range(2)]
        self.receivers = [ReceiveWindow(size, ceiling=ceiling, budget=self.budget) for _ in range(2)]
        self.data: list[list[int]] = [[], []]
        self.grants: list[list[int]] = [[], []]
        self.stopped = [False, False]

    streams = st.integers(0, 1)

    @rule(stream=streams, share=st.floats(0, 1))
    def send(self, stream: int, share: float) -> None:
        size = round(self.senders[stream].credit * share)
        if size:
            self.senders[stream].spend(size)
            self.data[stream].append(size)

    @rule(stream=streams)
    def deliver_data(self, stream: int) -> None:
        if self.data[stream]:
            self.receivers[stream].receive(self.data[stream].pop(0))

    @rule(stream=streams, share=st.floats(0, 1), later=st.floats(0, 1))
    def consume(self, stream: int, share: float, later: float) -> None:
        self.now += later * 0.3
        size = round(self.receivers[stream].unconsumed * share)
        grant = self.receivers[stream].consume(size, self.now, ROUND_TRIP)
        if grant:
            self.grants[stream].append(grant)

    @rule(stream=streams)
    def deliver_grant(self, stream: int) -> None:
        if self.grants[stream]:
            self.senders[stream].grant(self.grants[stream].pop(0))

    @precondition(lambda self: not all(self.stopped))
    @rule(stream=streams)
    def stop_growing(self, stream: int) -> None:
        self.receivers[stream].stop_growing()
        self.stopped[stream] = True

    @invariant()
    def both_sides_count_the_same(self) -> None:
        for stream, (sender, receiver) in enumerate(zip(self.senders, self.receivers, strict=True)):
            assert receiver.credit == sender.credit + sum(self.data[stream]) + sum(self.grants[stream])
            assert 0 <= receiver.unconsumed <= receiver.size

    @invariant()
    def growth_stays_within_ceiling_and_budget(self) -> None:
        growth = sum(r.size - self.initial for r, gone in zip(self.receivers, self.stopped, strict=True) if not gone)
        assert growth + self.budget.left == self.total
        assert all(self.initial <= receiver.size <= self.ceiling for receiver in self.receivers)

    def teardown(self) -> None:
        """With all delivered and consumed a sender is never without credit."""
        for stream, receiver in enumerate(self.receivers):
            while self.data[stream]:
                self.deliver_data(stream)
            self.consume(stream, 1.0, 0.0)
            while self.grants[stream]:
                self.deliver_grant(stream)
            assert self.senders[stream].credit * 2 > receiver.size or receiver.size == 0


TestCredit = Credit.TestCase
