"""A reader that stands still costs its own stream, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from time import monotonic

import pytest

from quickstart.ports import LOOPBACK
from tests.gateway.conftest import until

from .installation import Gateway, Installation
from .programs import MEGABYTE, Programs
from .services import Conversation, Services, echo

pytestmark = pytest.mark.wide

STALL = 30.0  # seconds
ROUND = 3.0  # seconds of questions with the reader stalled, then as many without one, and so on
FLOOR = 0.005  # seconds: what a busy machine adds to any answer
# The stream's window may have grown to 16 MiB; what was on its way lies once in the gateway, besides in sockets.
HELD = 20 * MEGABYTE


def percentile(samples: list[float], share: float) -> float:
    return sorted(samples)[int(len(samples) * share)]


class Stall:
    """A reader that asked for bytes without end and takes none of them."""

    def __init__(self) -> None:
        self.sent = 0
        self._socket = socket.socket()

    async def flood(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the service: send until nobody takes any more."""
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
                self.sent += 65_536

    async def begin(self, port: int) -> None:
        """Connect, and wait until every window on the way is full."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self._socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self._socket, (LOOPBACK, port))
        await until(lambda: self.sent, "the first bytes")
        last = -1

        async def full() -> bool:
            nonlocal last
            was, last = last, self.sent
            await asyncio.sleep(0.2)
            return was == self.sent

        await until(full, "the windows to be full")

    def end(self) -> None:
        self._socket.close()


async def ask_for(conversation: Conversation, seconds: float) -> list[float]:
    """Ask again and again; return how long each answer took."""
    samples: list[float] = []
    until_then = monotonic() + seconds
    while monotonic() < until_then:
        samples.append(await conversation.ask(1000))
    return samples


@pytest.mark.timeout(240)
async def test_a_stalled_reader_slows_no_other_stream_and_takes_no_more_than_its_window(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services
) -> None:
    line = await installation.make_line(1, 2)
    stall = Stall()
    upstreams = [f"1={await services.start(stall.flood)}", f"2={await services.start(echo)}"]
    client = await installation.start_client(programs, line, gateway, *upstreams)
    conversation = await Conversation.open(line.listeners[2])
    await ask_for(conversation, 1)
    memory = [program.memory for program in (gateway.program, client)]

    # In turn, so that whatever else the machine does meets both.
    without: list[float] = []
    stalled: list[float] = []
    for _ in range(3):
        without += await ask_for(conversation, ROUND)
        await stall.begin(line.listeners[1])
        stalled += await ask_for(conversation, ROUND)
        stall.end()
    # And one that lasts.
    await stall.begin(line.listeners[1])
    sent = stall.sent
    stalled += await ask_for(conversation, STALL)
    assert stall.sent == sent, "bytes went on to a reader that takes none"
    without += await ask_for(conversation, ROUND)
    grown = [program.memory - was for program, was in zip((gateway.program, client), memory, strict=True)]
    stall.end()

    before, during = percentile(without, 0.99), percentile(stalled, 0.99)
    print(f"p99 {before * 1000:.2f} ms without a stalled reader ({len(without)} samples), "
          f"{during * 1000:.2f} ms with one ({len(stalled)}); gateway and client grew by {grown}")  # fmt: skip
    assert during < max(2 * before, FLOOR)
    assert max(grown) < HELD, f"gateway and client grew by {grown} bytes"
