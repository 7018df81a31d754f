"""What no event tells of is looked after: answers that do not come, readers that stall, broken connections."""

from __future__ import annotations

import asyncio

import pytest

from tunnels.bridge import SocketBridge
from tunnels.endpoint import Timing
from tunnels.protocol import ErrorCode, Limits, Target

from .memory import Line, Recorder, check_books
from .wires import SOON, reset, send, tcp_pair, until

SOON_LOOKED_AT = Timing(check=0.01, accept=0.05, stall=0.05)
CALMLY_LOOKED_AT = Timing(check=0.01, accept=60.0, stall=60.0)


def unanswering(line: Line) -> None:
    """Let the client open streams and say nothing of them."""

    def open_only(stream):
        recorder = Recorder(line.client)
        recorder.stream = stream
        return recorder

    line.owners[1].make_handler = open_only


async def test_a_stream_that_the_client_never_answers_is_given_up():
    line = Line(timing=SOON_LOOKED_AT)
    line.run_by_itself()
    await until(lambda: line.gateway.open, "HELLO")
    answered = line.open()
    await until(lambda: answered.told == ["accepted"], "the answer")
    unanswering(line)
    waiting = line.open()
    await until(lambda: waiting.told, "the end of the wait")
    assert waiting.told[0][:2] == ("reset", ErrorCode.TIMEOUT)
    assert answered.told == ["accepted"]
    assert line.gateway.streams == 1


async def test_where_stalled_readers_fill_the_window_they_give_way_and_others_go_on():
    limits = Limits(stream_window=4096, session_window=16_384)
    line = Line(gateway=limits, client=limits, timing=SOON_LOOKED_AT)
    line.run_by_itself()
    await until(lambda: line.gateway.open, "HELLO")
    stalled = [line.open(consume=False) for _ in range(4)]
    senders = line.owners[1].streams
    await until(lambda: len(senders) == 4, "four streams")
    for sender in senders:
        sender.backlog = bytes(4096)
        sender.send()
    await until(lambda: sum(len(reader.received) for reader in stalled) == 16_384, "a full window")
    other = line.open()
    await until(lambda: len(senders) == 5, "the fifth stream")
    senders[4].backlog = bytes(50_000)
    senders[4].send()
    await until(lambda: len(other.received) == 50_000, "the bytes of the stream that is read")
    gone = [reader for reader in stalled if any(what[0] == "reset" for what in reader.told if what != "accepted")]
    assert gone
    assert all(reader.told[-1][1] is ErrorCode.LIMIT for reader in gone)


async def test_a_reader_that_takes_something_now_and_then_is_no_stalled_one():
    limits = Limits(stream_window=4096, session_window=4096)
    line = Line(gateway=limits, client=limits, timing=Timing(check=0.01, stall=0.05))
    line.run_by_itself()
    await until(lambda: line.gateway.open, "HELLO")
    reader = line.open(consume=False)
    sender = await until_first(line)
    sender.backlog = bytes(1 << 20)
    sender.send()
    for _ in range(10):
        looks = reader.looks
        await until(lambda looks=looks: reader.looks >= looks + 3, "three looks at a full window")
        before = len(reader.received)
        reader.consume_all()
        await until(lambda before=before: len(reader.received) > before, "more bytes")
    assert reader.told == ["accepted"]


async def until_first(line: Line) -> Recorder:
    await until(lambda: line.owners[1].streams, "a stream")
    return line.owners[1].streams[0]


async def test_a_reset_is_felt_though_the_stream_has_no_credit():
    line = Line(client=Limits(stream_window=1024, session_window=4096), timing=CALMLY_LOOKED_AT)
    line.run_by_itself()
    await until(lambda: line.gateway.open, "HELLO")
    ended: list[bool] = []
    app, sock = tcp_pair()
    bridge = SocketBridge(line.gateway, lambda: ended.append(True))
    line.owners[1].make_handler = lambda stream: hold(line, stream)
    bridge.bind(line.gateway.open_stream(Target(25060), "10.0.0.1:5000", bridge))
    bridge.connect(sock)
    await send(app, bytes(50_000))
    await until(lambda: bridge.stream.send.credit == 0 and not bridge._reading, "the credit to be used up")
    reset(app)
    await until(lambda: ended, "the reset to be felt")
    await line.settle()
    check_books(line)


def hold(line: Line, stream) -> Recorder:
    """Accept, and consume nothing."""
    recorder = Recorder(line.client, consume=False)
    recorder.stream = stream
    line.client.accept_stream(stream)
    return recorder


async def test_nothing_is_looked_at_when_there_are_no_streams():
    line = Line(timing=CALMLY_LOOKED_AT)
    line.run_by_itself()
    await until(lambda: line.gateway.open, "HELLO")
    assert line.gateway._care._timer is None
    recorder = line.open()
    assert line.gateway._care._timer is not None
    recorder.endpoint.reset_stream(recorder.stream, ErrorCode.CANCELLED)
    await until(lambda: line.gateway._care._timer is None, "the last look")


@pytest.mark.parametrize("ends", ["gateway", "client"])
async def test_no_look_is_taken_after_the_end(ends):
    line = Line(timing=CALMLY_LOOKED_AT)
    line.run_by_itself()
    await until(lambda: line.gateway.open, "HELLO")
    line.open()
    getattr(line, ends).close(ErrorCode.OK, "enough")
    await asyncio.wait_for(asyncio.gather(*(owner.closed for owner in line.owners)), SOON)
    for endpoint in (line.gateway, line.client):
        assert endpoint._care._timer is None or endpoint._care._timer.cancelled()
