"""Bridges over real TCP connections: bytes, half-closes, resets, and nothing left behind."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from tunnels.bridge import ProtocolBridge, SocketBridge
from tunnels.protocol import ErrorCode, Limits

from .wires import Wire, bridged, digest, receive, reset, send, until

NOISE = random.Random(11).randbytes(6_000_000)
LOOPS: list[str] = ["asyncio"] if sys.platform == "win32" else ["asyncio", "uvloop"]

Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=LOOPS)
def run(request) -> Callable[[Main], None]:
    """Run a coroutine function on each kind of event loop; an error that a loop only logs fails the test."""

    def run_on(main: Main) -> None:
        errors: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
            await main()

        if request.param == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        else:
            factory = asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(watched())
        assert errors == []

    return run_on


def window_is_full(wire: Wire) -> bool:
    return wire.gateway_bridge.stream.send.credit == 0


@pytest.fixture(params=[SocketBridge, ProtocolBridge], ids=["socket", "protocol"])
def kind(request) -> type:
    return request.param


def test_bulk_goes_both_ways_at_once(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            wire = await wires.open()
            there, back = NOISE, NOISE[::-1]
            received = await asyncio.gather(
                receive(wire.upstream, len(there)),
                receive(wire.app, len(back)),
                send(wire.app, there),
                send(wire.upstream, back),
            )
            assert digest(received[0]) == digest(there)
            assert digest(received[1]) == digest(back)

    run(main)


@pytest.mark.parametrize("high_water", [0, 20_000])
def test_windows_and_paths_of_any_size_carry_the_bytes(run, kind, high_water):
    async def main() -> None:
        async with bridged(kind, Limits(1024, 2048), high_water) as wires:
            ways = [await wires.open() for _ in range(3)]
            data = [NOISE[turn * 1000 : turn * 1000 + 60_000] for turn in range(3)]
            sending = [send(wire.app, piece) for wire, piece in zip(ways, data, strict=True)]
            receiving = [receive(wire.upstream, 60_000) for wire in ways]
            received = await asyncio.gather(*receiving, *sending)
            assert received[:3] == data

    run(main)


@pytest.mark.parametrize("first", ["app", "upstream"])
def test_a_half_close_reaches_the_other_end_and_the_answer_still_comes(run, kind, first):
    async def main() -> None:
        async with bridged(kind) as wires:
            wire = await wires.open()
            asking, answering = (wire.app, wire.upstream) if first == "app" else (wire.upstream, wire.app)
            await send(asking, NOISE[:300_000])
            asking.shutdown(socket.SHUT_WR)
            assert digest(await receive(answering)) == digest(NOISE[:300_000])
            await send(answering, NOISE[300_000:900_000])
            answering.shutdown(socket.SHUT_WR)
            assert digest(await receive(asking)) == digest(NOISE[300_000:900_000])
            await wire.over()
            await wires.settled()

    run(main)


def test_a_close_at_both_ends_at_once_leaves_nothing(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            for _ in range(20):
                wire = await wires.open()
                await send(wire.app, b"x")
                wire.close()
                await wire.over()

    run(main)


@pytest.mark.parametrize("first", ["app", "upstream"])
def test_a_reset_reaches_the_other_end_as_a_reset(run, kind, first):
    async def main() -> None:
        async with bridged(kind) as wires:
            wire = await wires.open()
            breaking, other = (wire.app, wire.upstream) if first == "app" else (wire.upstream, wire.app)
            await send(wire.app, b"ping")
            assert await receive(wire.upstream, 4) == b"ping"
            reset(breaking)
            with pytest.raises(ConnectionResetError):
                await receive(other)
            await wire.over()

    run(main)


def test_a_refused_upstream_resets_the_application(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            wire = await wires.open(dial=False)
            await send(wire.app, b"early")
            await wire.refused()
            with pytest.raises(ConnectionResetError):
                await receive(wire.app)
            await until(lambda: wire.ended == ["gateway"], "the gateway's bridge lets go")
            wire.ended.append("client")  # a bridge that never had a connection is its owner's to drop

    run(main)


def test_bytes_and_the_end_wait_for_a_slow_dial(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            wire = await wires.open(dial=False)
            await send(wire.app, NOISE[:100_000])
            wire.app.shutdown(socket.SHUT_WR)
            await until(lambda: wire.gateway_bridge.stream.fin_sent, "FIN")
            await wire.dialled()
            assert await receive(wire.upstream) == NOISE[:100_000]
            await send(wire.upstream, b"answer")
            wire.upstream.close()
            assert await receive(wire.app) == b"answer"
            await wire.over()

    run(main)


def test_what_comes_before_the_dial_has_finished_stays_within_the_window(run, kind):
    async def main() -> None:
        async with bridged(kind, Limits(stream_window=4096)) as wires:
            wire = await wires.open(dial=False)
            sending = asyncio.ensure_future(send(wire.app, NOISE))
            await until(partial(window_is_full, wire), "the window is full")
            assert len(wire.client_bridge._held) == 4096
            await wire.dialled()
            assert digest(await receive(wire.upstream, len(NOISE))) == digest(NOISE)
            await sending

    run(main)


def test_a_stream_reset_during_the_dial_resets_the_connection_that_comes_too_late(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            wire = await wires.open(dial=False)
            await until(lambda: hasattr(wire, "client_bridge"), "OPEN")
            reset(wire.app)
            await until(lambda: wire.client_bridge.stream.closed, "RESET")
            await wire.dialled()
            with pytest.raises(ConnectionResetError):
                await receive(wire.upstream)
            await wire.over()

    run(main)


def test_the_end_of_the_session_resets_both_connections(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            wire = await wires.open()
            await send(wire.app, b"ping")
            assert await receive(wire.upstream, 4) == b"ping"
            wires.line.gateway.close(ErrorCode.SHUTDOWN, "stopping")
            for sock in (wire.app, wire.upstream):
                with pytest.raises(ConnectionResetError):
                    await receive(sock)
            await wire.over()

    async def without_books() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.endpoint.wires.check_books", lambda line: None)
            await main()

    run(without_books)


def test_a_reader_that_stalls_stops_its_own_connection_only(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            stalled, flowing = await wires.open(), await wires.open()
            sending = asyncio.ensure_future(send(stalled.app, NOISE))
            await until(partial(window_is_full, stalled), "the window is full")
            _, received = await asyncio.gather(send(flowing.app, NOISE), receive(flowing.upstream, len(NOISE)))
            assert digest(received) == digest(NOISE)
            assert not sending.done()
            assert digest(await receive(stalled.upstream, len(NOISE))) == digest(NOISE)
            await sending

    run(main)


def test_bytes_held_after_fin_both_ways_are_delivered_or_given_back(run, kind):
    """The upstream has said its last byte, the application too, and the upstream has yet to read; then it breaks."""

    async def main() -> None:
        async with bridged(kind) as wires:
            for read in (True, False):
                wire = await wires.open()
                window = wire.client_bridge.stream.receive.size
                sending = asyncio.ensure_future(send(wire.app, NOISE))
                await until(partial(window_is_full, wire), "the window is full")
                wire.upstream.shutdown(socket.SHUT_WR)
                assert await receive(wire.app) == b""
                if read:
                    receiving = asyncio.ensure_future(receive(wire.upstream))
                    await sending
                    wire.app.shutdown(socket.SHUT_WR)
                    assert digest(await receiving) == digest(NOISE)
                else:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
                    # what the gateway's kernel holds leaves with the upstream's first reads; then FIN follows
                    wire.app.shutdown(socket.SHUT_WR)
                    while not wire.gateway_bridge.stream.closed:
                        await receive(wire.upstream, 1000)
                        await asyncio.sleep(0)
                    reset(wire.upstream)
                await wire.over()
                assert window <= wire.client_bridge.stream.receive.size

    run(main)


def test_many_small_frames_cost_a_stalled_bridge_no_more_than_their_bytes(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            wire = await wires.open(dial=False)
            await until(lambda: hasattr(wire, "client_bridge"), "OPEN")
            gateway, stream = wires.line.gateway, wire.gateway_bridge.stream
            for _ in range(20_000):
                gateway.send_data(stream, b"xy")
            await until(lambda: len(wire.client_bridge._held) == 40_000, "the bytes")
            assert sys.getsizeof(wire.client_bridge._held) < 60_000
            await wire.dialled()
            assert await receive(wire.upstream, 40_000) == b"xy" * 20_000

    run(main)


def test_hundreds_of_connections_one_after_another_leave_nothing(run, kind):
    async def main() -> None:
        async with bridged(kind) as wires:
            for turn in range(200):
                wire = await wires.open()
                await send(wire.app, b"ping")
                assert await receive(wire.upstream, 4) == b"ping"
                if turn % 3 == 0:
                    reset(wire.app)
                else:
                    wire.app.close()
                wire.upstream.close()
                await wire.over()
                wires.wires.clear()
            await wires.settled()
            assert wires.line.gateway.streams == wires.line.client.streams == 0

    run(main)
