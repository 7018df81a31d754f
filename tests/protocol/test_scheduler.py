"""Whose turn it is: fairness over any interleaving, interrupted turns, nobody left out."""

from hypothesis import given
from hypothesis import strategies as st

from tunnels.protocol import Ring

QUANTUM = 100


def run(ring: Ring[int], backlog: dict[int, int], room: int) -> dict[int, int]:
    """Give turns while there is *room*, as an endpoint does; return the bytes that each key sent."""
    done = dict.fromkeys(backlog, 0)
    while len(ring) and room:
        key = ring.begin_turn()
        size = min(ring.allowance(key), backlog[key], room)
        ring.spend(key, size)
        done[key] += size
        backlog[key] -= size
        room -= size
        if ring.allowance(key) > 0 and room:
            ring.leave(key)
        ring.end_turn()
    return done


def ring_of(*keys: int) -> Ring[int]:
    ring: Ring[int] = Ring(QUANTUM)
    for key in keys:
        ring.wait(key)
    return ring


def test_each_gets_a_quantum_in_the_order_in_which_they_came():
    ring = ring_of(3, 1, 2)
    turns = []
    for _ in range(6):
        key = ring.begin_turn()
        turns.append((key, ring.allowance(key)))
        ring.spend(key, QUANTUM)
        ring.end_turn()
    assert turns == [(3, QUANTUM), (1, QUANTUM), (2, QUANTUM)] * 2


def test_nobody_sends_out_of_turn():
    ring = ring_of(1, 2)
    assert ring.begin_turn() == 1
    assert (ring.allowance(2), ring.allowance(3)) == (0, 0)
    ring.spend(2, 50)
    ring.end_turn()
    assert ring.allowance(1) == 0


def test_an_interrupted_turn_goes_on_with_what_it_left_over():
    ring = ring_of(1, 2)
    ring.begin_turn()
    ring.spend(1, 30)
    ring.end_turn()
    assert ring.begin_turn() == 1
    assert ring.allowance(1) == QUANTUM - 30


def test_waiting_twice_keeps_the_place():
    ring = ring_of(1, 2)
    ring.wait(1)
    assert ring.begin_turn() == 1


def test_who_leaves_forfeits_its_turn_and_begins_anew_at_the_end():
    ring = ring_of(1, 2)
    ring.begin_turn()
    ring.spend(1, 1)
    ring.leave(1)
    assert ring.allowance(1) == 0
    ring.end_turn()
    ring.wait(1)
    assert ring.begin_turn() == 2
    ring.leave(2)
    assert ring.begin_turn() == 1
    assert ring.allowance(1) == QUANTUM
    assert (len(ring), 1 in ring, 2 in ring) == (1, True, False)


def test_leaving_without_waiting_does_nothing():
    ring = ring_of(1)
    ring.leave(7)
    assert len(ring) == 1


def test_a_dissolved_ring_tells_who_waited_in_order_and_holds_nobody():
    ring = ring_of(3, 1, 2)
    ring.begin_turn()
    ring.spend(3, QUANTUM)
    ring.end_turn()
    assert ring.dissolve() == [1, 2, 3]
    assert (len(ring), ring.allowance(1)) == (0, 0)
    ring.wait(3)
    assert (ring.begin_turn(), ring.allowance(3)) == (3, QUANTUM)


@given(st.integers(2, 6), st.lists(st.integers(1, 5 * QUANTUM), min_size=1, max_size=40))
def test_streams_that_always_wait_are_never_more_than_a_quantum_apart(count, rooms):
    ring = ring_of(*range(count))
    total = dict.fromkeys(range(count), 0)
    for room in rooms:
        done = run(ring, dict.fromkeys(range(count), 10**9), room)
        assert sum(done.values()) == room
        for key, size in done.items():
            total[key] += size
        assert max(total.values()) - min(total.values()) <= QUANTUM


@given(
    st.dictionaries(st.integers(0, 9), st.integers(0, 10 * QUANTUM), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(1, 3 * QUANTUM), st.sets(st.integers(0, 9), max_size=2)), max_size=60),
)
def test_everybody_who_waits_gets_a_turn_and_all_is_sent_in_the_end(backlog, steps):
    """Others come and go between the turns; none of it lets a stream wait for more than one turn of each other."""
    ring = ring_of(*backlog)
    for room, gone in steps:
        for key in gone:
            ring.leave(key)
        for key, left in backlog.items():
            if left:
                ring.wait(key)
        waiting = [key for key in backlog if key in ring]
        before = dict(backlog)
        run(ring, backlog, room)
        if room > QUANTUM * len(waiting):
            assert all(backlog[key] < before[key] or not before[key] for key in waiting)
    for key, left in backlog.items():
        if left:
            ring.wait(key)
    run(ring, backlog, 10**6)
    assert not any(backlog.values())
    assert len(ring) == 0
