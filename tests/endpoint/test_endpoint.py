"""An endpoint over a path in memory: who is told what, who may send when, and how a session ends."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnels.endpoint import MAX_UNSENT, ProbeResult, Timing
from tunnels.protocol import ErrorCode, Exposure, Limits, StreamRefused, Target
from tunnels.protocol.frames import FrameType, pack_frame, pack_open, pack_reason

from .memory import Line, Recorder, check_books

NOISE = random.Random(3).randbytes(3_000_000)
SOON = 5.0  # seconds; what is waited for comes within milliseconds


# -- opening ----------------------------------------------------------------------------------------------------------


async def test_hello_goes_both_ways():
    line = Line()
    assert not line.gateway.open
    await line.settle()
    assert (line.gateway.open, line.client.open) == (True, True)
    assert line.owners[0].hello.agent == "client"
    assert line.owners[1].hello.agent == "gateway"
    assert line.gateway.round_trip is not None


async def test_without_hello_the_session_ends_in_time():
    line = Line(timing=Timing(hello=0.01))
    code, _ = await asyncio.wait_for(line.owners[0].closed, SOON)
    assert code is ErrorCode.TIMEOUT
    assert line.transports[0].closed == (ErrorCode.TIMEOUT.close_code, "no HELLO in time")


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bulk", [False, True])
async def test_bytes_arrive_as_they_were_sent(bulk):
    line = Line()
    await line.settle()
    stream = line.open(NOISE, bulk=bulk)
    await line.settle()
    far = line.owners[1].streams[0]
    assert far.received == NOISE
    far.backlog = NOISE[::-1]
    far.bulk = bulk
    far.send()
    await line.settle()
    assert stream.received == NOISE[::-1]
    assert stream.told == ["accepted"]


async def test_fin_goes_each_way_and_ends_the_stream_at_both_ends():
    line = Line()
    await line.settle()
    near = line.open(b"question")
    line.gateway.send_fin(near.stream)
    await line.settle()
    far = line.owners[1].streams[0]
    assert (far.received, far.told) == (b"question", ["fin"])
    far.backlog = b"answer"
    far.send()
    line.client.send_fin(far.stream)
    await line.settle()
    assert (near.received, near.told) == (b"answer", ["accepted", "fin"])
    check_books(line)


async def test_a_reset_is_told_to_the_other_side_only():
    line = Line()
    await line.settle()
    near = line.open(b"x", consume=False)
    await line.settle()
    line.gateway.reset_stream(near.stream, ErrorCode.CANCELLED)
    await line.settle()
    assert near.told == ["accepted"]
    assert line.owners[1].streams[0].told == [("reset", ErrorCode.CANCELLED)]
    check_books(line)


async def test_a_stream_can_be_rejected_while_it_is_being_opened():
    line = Line()
    await line.settle()

    def reject(stream):
        line.client.reject_stream(stream, ErrorCode.UNKNOWN_UPSTREAM, "no such port")
        return Recorder(line.client)

    line.owners[1].make_handler = reject
    near = line.open(b"early bytes")
    await line.settle()
    assert near.told == [("rejected", ErrorCode.UNKNOWN_UPSTREAM, "no such port")]
    check_books(line)


async def test_many_rejections_in_one_pass_stay_within_the_limit_of_a_message():
    """MemoryTransport fails where a message is too long."""
    line = Line()
    await line.settle()

    def reject(stream):
        line.client.reject_stream(stream, ErrorCode.INTERNAL, "x" * 512)
        return Recorder(line.client)

    line.owners[1].make_handler = reject
    streams = [line.open() for _ in range(1000)]
    await line.settle()
    assert all(len(stream.told) == 1 for stream in streams)
    check_books(line)


async def test_a_full_or_ended_session_refuses_streams():
    line = Line(client=Limits(max_streams=1))
    await line.settle()
    line.open()
    with pytest.raises(StreamRefused) as caught:
        line.open()
    assert caught.value.code is ErrorCode.LIMIT
    line.gateway.close(ErrorCode.SHUTDOWN, "")
    with pytest.raises(StreamRefused) as caught:
        line.open()
    assert caught.value.code is ErrorCode.LOST


def message_to_client(line: Line, *frames: bytes) -> None:
    line.client.message_received(memoryview(bytearray(b"".join(frames))))


async def test_a_reset_in_the_message_of_its_open_reaches_the_owner():
    line = Line()
    await line.settle()
    opened = pack_frame(FrameType.OPEN, 1, pack_open(Target(80), ""))
    message_to_client(line, opened, pack_frame(FrameType.RESET, 1, pack_reason(ErrorCode.CANCELLED, "")))
    assert line.owners[1].streams[0].told == [("reset", ErrorCode.CANCELLED)]
    assert line.client.streams == 0


async def test_a_reset_in_the_message_of_a_fin_reaches_the_owner():
    line = Line()
    await line.settle()
    line.open()
    await line.settle()
    reset = pack_frame(FrameType.RESET, 1, pack_reason(ErrorCode.CANCELLED, ""))
    message_to_client(line, pack_frame(FrameType.FIN, 1), reset)
    assert line.owners[1].streams[0].told == ["fin", ("reset", ErrorCode.CANCELLED)]


async def test_a_fin_sent_on_new_credit_loses_nothing_of_the_message_that_brought_it():
    """The owner answers WINDOW with its last byte, while DATA and FIN of the peer wait behind in the same message."""
    line = Line()
    await line.settle()
    line.open()
    await line.settle()
    far = line.owners[1].streams[0]
    far.on_resume = lambda: line.client.send_fin(far.stream)
    window = pack_frame(FrameType.WINDOW, 1, (1).to_bytes(4, "big"))
    message_to_client(line, window, pack_frame(FrameType.DATA, 1, b"last words"), pack_frame(FrameType.FIN, 1))
    assert (far.received, far.told) == (b"last words", ["fin"])
    assert line.client.session._receive_window.unconsumed == 0


async def test_an_owner_that_ends_the_session_in_the_middle_of_a_message_hears_only_its_end():
    line = Line()
    await line.settle()
    near = line.open()
    await line.settle()
    far = line.owners[1].streams[0]
    far.on_data = lambda: line.client.close(ErrorCode.SHUTDOWN, "enough")
    opened = pack_frame(FrameType.OPEN, 3, pack_open(Target(80), ""))
    message_to_client(line, pack_frame(FrameType.DATA, 1, b"x"), opened, pack_frame(FrameType.FIN, 1))
    assert far.told == [("reset", ErrorCode.LOST)]
    assert len(line.owners[1].streams) == 1
    await line.settle()
    assert near.told == ["accepted", ("reset", ErrorCode.LOST)]
    assert line.client.streams == 0


# -- turns ------------------------------------------------------------------------------------------------------------


async def test_a_congested_path_gives_waiting_streams_their_turns_fairly():
    line = Line(high_water=65536, client=Limits(stream_window=4 << 20))
    await line.settle()
    streams = [line.open(NOISE[:2_000_000], bulk=True) for _ in range(4)]
    for _ in range(40):
        line.transports[0].deliver()
        await asyncio.sleep(0)
    sent = [2_000_000 - len(stream.backlog) for stream in streams]
    assert min(sent) > 0
    assert max(sent[1:]) - min(sent[1:]) <= 2 * 65536
    assert sum(sent) < 8_000_000


@pytest.mark.parametrize("high_water", [65_536, 131_072, 200_000, 300_000, 600_000])
@pytest.mark.parametrize("count", [2, 3, 4])
async def test_no_stream_is_favoured_whatever_the_room_of_the_path(count, high_water):
    """What is left of the room after a turn of each goes to one stream, and not always to the same one."""
    line = Line(high_water=high_water, client=Limits(stream_window=64 << 20, session_window=1 << 30))
    await line.settle()
    line.transports[0].pause()
    size = 12_000_000
    streams = [line.open(bytes(size), bulk=True) for _ in range(count)]
    line.transports[0].resume()
    for _ in range(12):
        for _ in range(8):
            line.transports[0].deliver()
        await asyncio.sleep(0)
    sent = [size - len(stream.backlog) for stream in streams]
    assert max(sent) - min(sent) <= 65_536 + high_water


async def test_a_stalled_reader_stops_its_own_stream_only():
    line = Line()
    await line.settle()
    stalled, flowing = line.open(), line.open()
    await line.settle()
    line.owners[1].streams[0].consume = False
    stalled.backlog = flowing.backlog = NOISE
    stalled.send()
    flowing.send()
    await line.settle()
    assert flowing.backlog == b""
    assert len(line.owners[1].streams[0].received) == Limits().stream_window
    line.owners[1].streams[0].consume = True
    line.owners[1].streams[0].consume_all()
    await line.settle()
    assert line.owners[1].streams[0].received == NOISE


async def test_the_ring_is_run_once_for_each_pass_of_the_loop(monkeypatch):
    line = Line(high_water=1 << 30, client=Limits(stream_window=4 << 20))
    await line.settle()
    line.transports[0].pause()
    streams = [line.open(NOISE) for _ in range(3)]
    runs = 0
    run_ring = line.gateway._run_ring

    def count() -> None:
        nonlocal runs
        runs += 1
        run_ring()

    monkeypatch.setattr(line.gateway, "_run_ring", count)
    for _ in range(10):  # each resumption runs it and may plan another run, but never a second one
        line.transports[0].resume()
        line.transports[0].pause()
    line.transports[0].resume()
    planned_before, passes = runs, 5
    for _ in range(passes):
        await asyncio.sleep(0)
    assert runs - planned_before <= passes
    await line.settle()
    assert all(stream.backlog == b"" for stream in streams)


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 4), st.integers(1, 200_000)),
    st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(1, 4)),
    st.tuples(st.just("consume"), st.integers(0, 4), st.just(0)),
    st.tuples(st.just("pause"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("resume"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("pass"), st.just(0), st.integers(1, 3)),
    st.tuples(st.just("reset"), st.integers(0, 4), st.just(0)),
    st.tuples(st.just("fin"), st.integers(0, 4), st.just(0)),
)


@settings(max_examples=300)
@given(
    steps=st.lists(steps, max_size=40),
    stream_window=st.sampled_from([1024, 70_000, 262_144]),
    session_window=st.sampled_from([1024, 100_000, 1 << 20]),
    high_water=st.sampled_from([0, 1000, 131_072]),
    bulk=st.booleans(),
)
def test_whatever_happens_waiting_bytes_move_once_there_is_room(steps, stream_window, session_window, high_water, bulk):
    """No stall: in the end, with all delivered and consumed, no owner has a byte left that it was not called for."""

    async def play() -> None:
        line = Line(client=Limits(stream_window, session_window), high_water=high_water)
        await line.settle()
        line.owners[1].make_handler = hold
        owner.append(line)
        near = [line.open(consume=False, bulk=bulk) for _ in range(5)]
        await line.settle()
        far = line.owners[1].streams
        sent = [bytearray() for _ in near]
        done: set[int] = set()
        for kind, which, size in steps:
            if kind == "write" and which not in done:
                sent[which] += NOISE[:size]
                near[which].backlog += NOISE[:size]
                near[which].send()
            elif kind == "deliver":
                for _ in range(size):
                    line.transports[which].deliver()
            elif kind == "consume":
                far[which].consume_all()
            elif kind == "pause":
                line.transports[which].pause()
            elif kind == "resume":
                line.transports[which].resume()
            elif kind == "pass":
                for _ in range(size):
                    await asyncio.sleep(0)
            elif kind == "reset" and which not in done:
                done.add(which)
                near[which].backlog = b""
                line.gateway.reset_stream(near[which].stream, ErrorCode.CANCELLED)
                far[which].held = 0
            elif kind == "fin" and which not in done and not near[which].backlog:
                done.add(which)
                line.gateway.send_fin(near[which].stream)
        for transport in line.transports:
            transport.resume()
        while True:
            await line.settle()
            held = [recorder for recorder in far if recorder.held]
            if not held:
                break
            for recorder in held:
                recorder.consume_all()
        for number, recorder in enumerate(near):
            assert recorder.backlog == b"", "bytes that wait for ever"
            if ("reset", ErrorCode.CANCELLED) not in far[number].told:
                assert far[number].received == sent[number]
        for recorder in far:
            line.client.reset_stream(recorder.stream, ErrorCode.CANCELLED)
        await line.settle()
        check_books(line)

    owner: list[Line] = []

    def hold(stream):
        recorder = owner[0].owners[1].accept(stream)
        recorder.consume = False
        return recorder

    asyncio.run(play())


# -- the session's own business ---------------------------------------------------------------------------------------


async def test_a_probe_is_answered():
    line = Line()
    await line.settle()
    asking = asyncio.ensure_future(line.gateway.probe(Target(25060), SOON))
    await asyncio.sleep(0)
    await line.settle()
    ((_, probe_id, target),) = line.owners[1].told
    assert target == Target(25060)
    line.client.send_report(probe_id, ProbeResult(ErrorCode.UPSTREAM_REFUSED, 0.5, "refused"))
    await line.settle()
    assert await asking == ProbeResult(ErrorCode.UPSTREAM_REFUSED, 0.5, "refused")


async def test_a_probe_without_an_answer_times_out_and_a_late_report_is_ignored():
    line = Line()
    await line.settle()
    result = await line.gateway.probe(Target(25060), 0.01)
    assert result.code is ErrorCode.TIMEOUT
    await line.settle()
    ((_, probe_id, _),) = line.owners[1].told
    line.client.send_report(probe_id, ProbeResult(ErrorCode.OK, 0.5, ""))
    await line.settle()
    assert line.gateway.open


async def test_a_probe_ends_with_the_session():
    line = Line()
    await line.settle()
    asking = asyncio.ensure_future(line.gateway.probe(Target(25060), SOON))
    await asyncio.sleep(0)
    line.transports[1].abort()
    assert (await asking).code is ErrorCode.LOST
    assert (await line.gateway.probe(Target(25060), SOON)).code is ErrorCode.LOST


async def test_an_update_reaches_the_client():
    line = Line()
    await line.settle()
    exposure = Exposure("acmeco", "prod", (25060, 22), ("a.local",))
    line.gateway.send_update(exposure)
    await line.settle()
    assert line.owners[1].told == [exposure]


@pytest.mark.parametrize("announcer", [0, 1])
async def test_after_goaway_streams_go_on_and_none_is_opened(announcer):
    line = Line()
    await line.settle()
    near = line.open()
    await line.settle()
    (line.gateway, line.client)[announcer].announce_end(ErrorCode.SHUTDOWN, 30.0, "stopping")
    await line.settle()
    assert line.owners[1 - announcer].told == [("draining", ErrorCode.SHUTDOWN, 30.0, "stopping")]
    assert line.gateway.draining
    assert line.client.draining
    with pytest.raises(StreamRefused):
        line.open()
    near.backlog = b"still"
    near.send()
    await line.settle()
    assert line.owners[1].streams[0].received == b"still"


# -- how a session ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closer", [0, 1])
@pytest.mark.parametrize("code", [ErrorCode.OK, ErrorCode.REVOKED, ErrorCode.SHUTDOWN])
async def test_a_close_tells_both_sides_its_code_and_resets_the_streams(closer, code):
    line = Line()
    await line.settle()
    near = line.open()
    await line.settle()
    (line.gateway, line.client)[closer].close(code, "because")
    assert await asyncio.wait_for(line.owners[closer].closed, SOON) == (code, "because")
    other, reason = await asyncio.wait_for(line.owners[1 - closer].closed, SOON)
    assert (other, reason) == (code, "because")
    assert near.told == ["accepted", ("reset", ErrorCode.LOST)]
    assert line.owners[1].streams[0].told == [("reset", ErrorCode.LOST)]
    assert line.transports[closer].closed == (code.close_code, "because")


async def test_nothing_is_done_twice_when_a_closed_session_is_closed_again():
    line = Line()
    await line.settle()
    line.gateway.close(ErrorCode.REVOKED, "first")
    line.gateway.close(ErrorCode.SHUTDOWN, "second")
    await line.settle()
    line.gateway.close(ErrorCode.SHUTDOWN, "third")
    assert line.owners[0].closed.result() == (ErrorCode.REVOKED, "first")


async def test_an_ended_session_takes_calls_of_streams_that_are_gone():
    line = Line()
    await line.settle()
    near = line.open(b"x" * 1000)
    line.gateway.send_fin(near.stream)
    await line.settle()
    far = line.owners[1].streams[0]
    line.client.send_fin(far.stream)
    far.held = 500
    line.client.close(ErrorCode.SHUTDOWN, "")
    for _ in range(2):
        line.client.consume(far.stream, 100)
        line.client.reset_stream(far.stream, ErrorCode.CANCELLED)
        line.client.accept_stream(far.stream)
        line.client.send_fin(far.stream)
        assert line.client.may_send(far.stream) == 0
        await line.settle()
    assert line.client.session.pending == 0


async def test_a_fault_of_the_peer_ends_the_session_with_a_code_and_one_line_in_the_log(caplog):
    line = Line()
    await line.settle()
    line.open()
    await line.settle()
    with caplog.at_level(logging.WARNING):
        message_to_client(line, pack_frame(99, 0))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    code, reason = await asyncio.wait_for(line.owners[1].closed, SOON)
    assert code is ErrorCode.PROTOCOL
    assert line.transports[1].closed == (4001, reason)
    assert (await asyncio.wait_for(line.owners[0].closed, SOON))[0] is ErrorCode.PROTOCOL
    assert (line.client.streams, line.gateway.streams) == (0, 0)


async def test_a_cut_connection_reads_as_lost():
    line = Line()
    await line.settle()
    near = line.open()
    line.transports[1].abort()
    assert (await asyncio.wait_for(line.owners[0].closed, SOON))[0] is ErrorCode.LOST
    assert near.told == [("reset", ErrorCode.LOST)]


async def test_a_peer_that_asks_and_never_reads_is_cut_off():
    line = Line()
    await line.settle()
    exposure = Exposure(hosts=tuple(f"{number}.local" for number in range(4000)))
    for _ in range(2 * MAX_UNSENT // 60_000):
        line.gateway.send_update(exposure)
        assert line.transports[0].unsent < MAX_UNSENT + 2 * 262_144
        await asyncio.sleep(0)
    assert line.transports[0].aborted
    assert (await asyncio.wait_for(line.owners[0].closed, SOON))[0] is ErrorCode.LOST


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_silent_peer_is_asked_and_then_given_up():
    line = Line(timing=Timing(idle=0.01, answer=0.01))
    await line.settle()
    near = line.open()
    await line.settle()
    code, _ = await asyncio.wait_for(line.owners[0].closed, SOON)
    assert code is ErrorCode.TIMEOUT
    assert line.transports[0].aborted
    assert line.transports[0].closed is None
    assert near.told == ["accepted", ("reset", ErrorCode.LOST)]


async def test_a_peer_that_answers_is_kept():
    line = Line(timing=Timing(idle=0.02, answer=0.25))
    line.run_by_itself()
    pings = 0

    def count(message: bytes) -> None:
        nonlocal pings
        pings += message[0] == FrameType.PING

    for transport in line.transports:
        transport.on_delivery = count
    async with asyncio.timeout(SOON):
        while pings < 4:
            await asyncio.sleep(0.001)
    assert line.gateway.open
    assert line.client.open
    line.gateway.close(ErrorCode.OK, "")
    await asyncio.wait_for(line.owners[1].closed, SOON)


async def test_no_timer_is_left_when_a_session_has_ended():
    line = Line()
    await line.settle()
    line.gateway.close(ErrorCode.OK, "")
    await line.settle()
    assert line.gateway._timer.cancelled()
    assert line.client._timer.cancelled()
