"""The decoder against bytes that nobody would send: a kept corpus, its mutations, what Hypothesis thinks of."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.protocol import Role
from tunnels.protocol import events as ev
from tunnels.protocol.frames import FrameType, pack_frame

from .fuzz import SITUATIONS, corpus, make_seed, mutate, replay
from .sessions import receive
from .test_session import PAYLOADS, session_in

SEEDS = corpus()
situations = st.integers(0, len(SITUATIONS) - 1)
frames = st.builds(
    pack_frame,
    st.sampled_from(FrameType) | st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1]),
    st.sampled_from(list(PAYLOADS.values())) | st.binary(max_size=40),
)


@pytest.mark.parametrize("name", SEEDS)
def test_a_kept_seed_is_answered_with_events_only(name):
    replay(SEEDS[name])


@pytest.mark.parametrize("kind", FrameType)
def test_the_corpus_holds_each_frame_type(kind):
    assert f"type-{kind:02d}-{kind.name.lower()}.bin" in SEEDS


@pytest.mark.parametrize("name", SEEDS)
def test_mutations_of_a_seed_are_answered_with_events_only(name):
    chance = random.Random(name)
    seed = SEEDS[name]
    for _ in range(150):
        replay(mutate(seed, chance))


@given(situations, st.lists(st.binary(max_size=300), max_size=4))
def test_any_bytes_are_answered_with_events_only(situation, messages):
    replay(make_seed(situation, *messages))


@given(situations, st.lists(st.lists(frames, max_size=6).map(b"".join), max_size=4))
def test_any_frames_are_answered_with_events_only(situation, messages):
    replay(make_seed(situation, *messages))


def test_a_message_of_nothing_but_headers_costs_no_more_than_its_bytes():
    session = session_in(Role.CLIENT, "gone")
    message = pack_frame(FrameType.RESET, 1) * 32_000
    tracemalloc.start()
    try:
        events = session.receive_message(memoryview(message), 0.0)
        assert not any(isinstance(event, ev.SessionFailed) for event in events)
        assert tracemalloc.get_traced_memory()[1] < len(message)
    finally:
        tracemalloc.stop()


def test_a_length_that_lies_reserves_nothing():
    session = session_in(Role.CLIENT, "open")
    tracemalloc.start()
    try:
        receive(session, bytes([FrameType.DATA]) + b"\xff\xff\xff" + bytes(4))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
