"""Two sessions back to back, under any interleaving of what their owners do and what the path delivers.

The machine plays both owners and the path: frames lie on the path in order and arrive in messages of any number of
frames. After each step the books of both sides must agree to the byte, and in the end nothing may be left.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tunnels.protocol import MAX_DATA, ErrorCode, Hello, Limits, Role, Session, Stream, Target
from tunnels.protocol import events as ev
from tunnels.protocol.frames import FrameType as F
from tunnels.protocol.frames import pack_frame

from .sessions import frames_of, open_stream, pair_after_hello, receive, sent

NOISE = random.Random(7).randbytes(1 << 21)


@dataclass
class Flow:
    """One direction of one stream, as its sender and its receiver know it."""

    offset: int
    written: int = 0
    read: int = 0
    fin_written: bool = False
    fin_read: bool = False

    def next_bytes(self, size: int) -> bytes:
        start = self.offset + self.written
        assert start + size <= len(NOISE)
        return NOISE[start : start + size]

    def expect(self, data: bytes) -> None:
        start = self.offset + self.read
        assert data == NOISE[start : start + len(data)], "bytes lost, doubled or out of order"
        assert not self.fin_read, "bytes behind the last one"
        self.read += len(data)


@dataclass
class Side:
    """One end: its session, the streams its owner knows, the bytes the owner holds, and what is on the way to it."""

    session: Session
    streams: dict[int, Stream] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    path: deque[bytes] = field(default_factory=deque)  # frames on the way to this side
    broken: set[int] = field(default_factory=set)  # streams reset or rejected, as this side knows

    @property
    def open_ids(self) -> list[int]:
        return [stream_id for stream_id, stream in self.streams.items() if not stream.closed]


small_limits = st.builds(Limits, st.integers(1024, 4096), st.integers(1024, 8192), st.integers(1, 5))
large_limits = st.just(Limits(2048, 1 << 20, 5))
GATEWAY, CLIENT = 0, 1
sides = st.sampled_from([GATEWAY, CLIENT])
reactions = st.sampled_from(["none", "consume", "fin", "reset"])
picks = st.integers(0, 50)


class Pair(RuleBasedStateMachine):
    @initialize(gateway=small_limits | large_limits, client=small_limits | large_limits, eager=st.booleans())
    def begin(self, gateway: Limits, client: Limits, eager: bool) -> None:
        """*eager*: what a handler is told makes it act at once, in the middle of a message."""
        self.sides = [
            Side(Session(Role.GATEWAY, Hello(limits=gateway))),
            Side(Session(Role.CLIENT, Hello(limits=client))),
        ]
        self.limits = [gateway, client]
        self.flows: dict[tuple[int, int], Flow] = {}  # (the sending side, stream id)
        self.now = 1000.0
        self.eager = eager
        self.reaction = "none"
        for side in (GATEWAY, CLIENT):
            self.collect(side)
            self.deliver(1 - side, 1, "none")
        # A round trip of a second: credit that is used up within two makes a window grow.
        for owner in self.sides:
            owner.session.send_ping(self.now)
        self.now += 1.0
        self.exchange("none")
        self.exchange("none")
        self.open_stream(0)

    # -- the owners ---------------------------------------------------------------------------------------------------

    @precondition(
        lambda self: len(self.sides[GATEWAY].session.streams) < min(limit.max_streams for limit in self.limits)
    )
    @rule(early=st.integers(0, 3000))
    def open_stream(self, early: int) -> None:
        gateway = self.sides[GATEWAY]
        if gateway.session.draining:
            return
        stream = gateway.session.open_stream(Target(25060), "10.0.0.1:5000")
        self.add_stream(GATEWAY, stream)
        for side in (GATEWAY, CLIENT):
            self.flows[side, stream.stream_id] = Flow(offset=(stream.stream_id * 2 + side) * 997 % 50_000)
        self.write(GATEWAY, stream, early)

    @rule(side=sides, pick=picks, size=st.integers(1, 5000))
    def send_data(self, side: int, pick: int, size: int) -> None:
        if stream := self.pick_open(side, pick):
            self.write(side, stream, size)

    @rule(side=sides, pick=picks, share=st.floats(0, 1))
    def consume(self, side: int, pick: int, share: float) -> None:
        owner = self.sides[side]
        waiting = [stream_id for stream_id, size in owner.held.items() if size]
        if waiting:
            stream_id = waiting[pick % len(waiting)]
            size = max(1, round(owner.held[stream_id] * share))
            owner.held[stream_id] -= size
            owner.session.consume(owner.streams[stream_id], size, self.now)
            self.collect(side)

    @rule(side=sides, pick=picks)
    def keep_sending(self, side: int, pick: int) -> None:
        """A source that never waits and a reader that never stalls: the window grows."""
        stream = self.pick_open(side, pick)
        for _ in range(3):
            if stream and not stream.closed:
                self.write(side, stream, 8192)
                self.exchange("none")
                while any(self.sides[1 - side].held.values()):
                    self.consume(1 - side, 0, 1.0)
                self.exchange("none")

    @rule(pick=picks, code=st.sampled_from([None, ErrorCode.UPSTREAM_REFUSED]))
    def answer(self, pick: int, code: ErrorCode | None) -> None:
        client = self.sides[CLIENT]
        waiting = [i for i in client.open_ids if not client.streams[i].accepted and not client.streams[i].fin_sent]
        if not waiting:
            return
        stream = client.streams[waiting[pick % len(waiting)]]
        if code is None:
            client.session.accept_stream(stream)
        else:
            client.session.reject_stream(stream, code, "")
            self.break_stream(CLIENT, stream)
        self.collect(CLIENT)

    @rule(side=sides, pick=picks)
    def send_fin(self, side: int, pick: int) -> None:
        if stream := self.pick_open(side, pick):
            self.finish(side, stream)

    @rule(side=sides, pick=picks)
    def reset(self, side: int, pick: int) -> None:
        if stream := self.pick_open(side, pick):
            self.give_up(side, stream)

    @rule(side=sides, pick=picks)
    def drop_what_fin_left(self, side: int, pick: int) -> None:
        """The socket breaks after FIN both ways: what is held is given up."""
        owner = self.sides[side]
        waiting = [i for i, size in owner.held.items() if size and owner.streams[i].closed]
        if waiting:
            self.give_up(side, owner.streams[waiting[pick % len(waiting)]])

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.1, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # -- the path -----------------------------------------------------------------------------------------------------

    @rule(side=sides, count=st.integers(1, 6), reaction=reactions)
    def deliver(self, side: int, count: int, reaction: str) -> None:
        """Give *side* the next frames as one message."""
        owner = self.sides[side]
        message = b"".join(owner.path.popleft() for _ in range(min(count, len(owner.path))))
        self.reaction = reaction if self.eager else "none"
        for event in owner.session.receive_message(memoryview(message), self.now):
            self.handle(side, event)
        self.collect(side)

    @rule(reaction=reactions)
    def exchange(self, reaction: str) -> None:
        """Let all that is on the way arrive."""
        for side, owner in enumerate(self.sides):
            self.collect(1 - side)
            self.deliver(side, len(owner.path), reaction)

    def handle(self, side: int, event: ev.Event) -> None:
        assert not isinstance(event, ev.SessionFailed), event
        owner = self.sides[side]
        if isinstance(event, ev.StreamOpened):
            self.add_stream(side, event.stream)
        elif isinstance(event, ev.DataReceived):
            stream_id = event.stream.stream_id
            assert stream_id not in owner.broken, "bytes of a stream that is gone"
            self.flows[1 - side, stream_id].expect(bytes(event.data))
            owner.held[stream_id] += len(event.data)
        elif isinstance(event, ev.FinReceived):
            flow = self.flows[1 - side, event.stream.stream_id]
            assert flow.read == flow.written, "FIN before the last byte"
            assert flow.fin_written
            flow.fin_read = True
        elif isinstance(event, ev.StreamReset | ev.StreamRejected):
            self.break_stream(side, event.stream)
        self.react(side, event)
        self.collect(side)

    def react(self, side: int, event: ev.Event) -> None:
        """Do what a handler does at once when it is told something."""
        stream = getattr(event, "stream", None)
        if stream is None or self.reaction == "none":
            return
        owner = self.sides[side]
        if self.reaction == "consume" and owner.held[stream.stream_id]:
            size, owner.held[stream.stream_id] = owner.held[stream.stream_id], 0
            owner.session.consume(stream, size, self.now)
        elif self.reaction == "fin" and not stream.closed and not stream.fin_sent:
            self.finish(side, stream)
        elif self.reaction == "reset" and not stream.closed:
            self.give_up(side, stream)
        self.reaction = "none"

    # -- helpers ------------------------------------------------------------------------------------------------------

    def add_stream(self, side: int, stream: Stream) -> None:
        self.sides[side].streams[stream.stream_id] = stream
        self.sides[side].held[stream.stream_id] = 0

    def pick_open(self, side: int, pick: int) -> Stream | None:
        """Return a stream that *side* may still send on."""
        owner = self.sides[side]
        ready = [i for i in owner.open_ids if not owner.streams[i].fin_sent]
        return owner.streams[ready[pick % len(ready)]] if ready else None

    def write(self, side: int, stream: Stream, size: int) -> None:
        session = self.sides[side].session
        size = min(size, stream.send.credit, session.send_window.credit, MAX_DATA)
        if size > 0:
            flow = self.flows[side, stream.stream_id]
            session.send_data(stream, flow.next_bytes(size))
            flow.written += size
        self.collect(side)

    def finish(self, side: int, stream: Stream) -> None:
        self.sides[side].session.send_fin(stream)
        self.flows[side, stream.stream_id].fin_written = True
        self.collect(side)

    def give_up(self, side: int, stream: Stream) -> None:
        self.sides[side].session.reset_stream(stream, ErrorCode.CANCELLED)
        self.break_stream(side, stream)
        self.collect(side)

    def break_stream(self, side: int, stream: Stream) -> None:
        assert stream.closed
        owner = self.sides[side]
        owner.broken.add(stream.stream_id)
        held, owner.held[stream.stream_id] = owner.held[stream.stream_id], 0
        if (stream.stream_id // 2 + side) % 2:
            owner.session.consume(stream, held, self.now)  # an owner that is late; its bytes went back already

    def collect(self, side: int) -> None:
        """Put what *side* wants to send on the path."""
        for frame in frames_of(sent(self.sides[side].session)):
            self.sides[1 - side].path.append(frame)
            if frame[0] == F.WINDOW and (stream := self.sides[side].streams.get(_stream_id(frame))):
                assert not stream.fin_received, "credit for a peer that has sent its last byte"

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def the_session_windows_agree(self) -> None:
        for side, owner in enumerate(self.sides):
            peer = self.sides[1 - side]
            data = sum(len(frame) - 8 for frame in owner.path if frame[0] == F.DATA)
            grants = sum(_increment(frame) for frame in peer.path if frame[0] == F.WINDOW and _stream_id(frame) == 0)
            window = owner.session._receive_window
            if peer.session.peer is not None:
                assert window.credit == peer.session.send_window.credit + data + grants
            assert window.unconsumed == sum(owner.held.values())
            assert sum(owner.held.values()) <= self.limits[side].session_window

    @invariant()
    def the_windows_of_open_streams_agree(self) -> None:
        for side, owner in enumerate(self.sides):
            peer = self.sides[1 - side]
            for stream_id in owner.open_ids:
                window = owner.streams[stream_id].receive
                assert window.unconsumed == owner.held[stream_id] <= window.size
                sender = peer.streams.get(stream_id)
                if sender is None or sender.closed or owner.streams[stream_id].fin_received:
                    continue
                data = sum(len(f) - 8 for f in owner.path if f[0] == F.DATA and _stream_id(f) == stream_id)
                grants = sum(_increment(f) for f in peer.path if f[0] == F.WINDOW and _stream_id(f) == stream_id)
                assert window.credit == sender.send.credit + data + grants

    @invariant()
    def growth_stays_within_its_budget(self) -> None:
        for side, owner in enumerate(self.sides):
            limits, session = self.limits[side], owner.session
            growing = [stream for stream in session.streams.values() if not stream.fin_received]
            growth = sum(stream.receive.size - limits.stream_window for stream in growing)
            assert growth + session._budget.left == limits.session_window // 2

    # -- how every history ends ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Deliver and consume until nothing moves any more."""
        while any(owner.path or any(owner.held.values()) for owner in self.sides):
            for side, owner in enumerate(self.sides):
                self.deliver(side, len(owner.path), "none")
                while any(owner.held.values()):
                    self.consume(side, 0, 1.0)

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        self.settle()
        broken = self.sides[GATEWAY].broken | self.sides[CLIENT].broken
        for (_, stream_id), flow in self.flows.items():
            if stream_id not in broken:
                assert flow.read == flow.written, "bytes that never arrived"
                assert flow.fin_read == flow.fin_written, "a FIN that never arrived"
        for side, owner in enumerate(self.sides):
            for stream_id in owner.open_ids:
                self.finish(side, owner.streams[stream_id])
        self.settle()
        for side, owner in enumerate(self.sides):
            assert owner.session.streams == {}, "a stream left behind"
            window, peer = owner.session._receive_window, self.sides[1 - side].session
            assert peer.send_window.credit + window._consumed == self.limits[side].session_window
            assert window.unconsumed == 0
            assert owner.session._budget.left == self.limits[side].session_window // 2


def _stream_id(frame: bytes) -> int:
    return int.from_bytes(frame[4:8], "big")


def _increment(frame: bytes) -> int:
    return int.from_bytes(frame[8:12], "big")


Pair.TestCase.settings = settings(max_examples=200, stateful_step_count=60)
TestPair = Pair.TestCase


# -- single histories, named ------------------------------------------------------------------------------------------


def test_half_close_leaves_the_other_way_open():
    gateway, client = pair_after_hello()
    here, there = open_stream(gateway, client)
    gateway.send_data(here, b"question")
    gateway.send_fin(here)
    events = receive(client, sent(gateway))
    assert [type(event) for event in events] == [ev.DataReceived, ev.FinReceived]
    client.accept_stream(there)
    client.send_data(there, b"answer")
    client.send_fin(there)
    events = receive(gateway, sent(client))
    assert [type(event) for event in events] == [ev.StreamAccepted, ev.DataReceived, ev.FinReceived]
    assert gateway.streams == client.streams == {}


def test_a_stalled_reader_stops_its_own_stream_only():
    gateway, client = pair_after_hello(client=Limits(stream_window=2048, session_window=8192))
    stalled, _ = open_stream(gateway, client)
    flowing, _ = open_stream(gateway, client)
    gateway.send_data(stalled, bytes(2048))
    receive(client, sent(gateway))
    for _ in range(100):
        gateway.send_data(flowing, bytes(1024))
        (event,) = receive(client, sent(gateway))
        client.consume(event.stream, 1024, 1.0)
        receive(gateway, sent(client))
    assert (stalled.send.credit, flowing.send.credit) == (0, 2048)


def test_resets_that_cross_are_both_heard_as_nothing():
    gateway, client = pair_after_hello()
    here, there = open_stream(gateway, client)
    gateway.reset_stream(here, ErrorCode.CANCELLED)
    client.reset_stream(there, ErrorCode.CANCELLED)
    from_gateway, from_client = sent(gateway), sent(client)
    assert receive(client, from_gateway) == receive(gateway, from_client) == []


def test_data_on_its_way_to_a_stream_that_was_reset_gives_its_credit_back():
    gateway, client = pair_after_hello(client=Limits(session_window=4096, stream_window=4096))
    here, there = open_stream(gateway, client)
    gateway.send_data(here, bytes(4096))
    client.reset_stream(there, ErrorCode.CANCELLED)
    assert gateway.send_window.credit == 0
    receive(client, sent(gateway))
    receive(gateway, sent(client))
    assert gateway.send_window.credit == 4096


def test_the_end_of_a_session_ends_its_streams_and_nothing_is_consumed_after():
    gateway, client = pair_after_hello()
    _, there = open_stream(gateway, client)
    receive(client, pack_frame(F.DATA, 1, b"held"))
    assert client.close() == [there]
    client.consume(there, 4, 1.0)
    client.reset_stream(there, ErrorCode.LOST)
    assert (there.closed, client.streams, client.pending) == (True, {}, 0)
