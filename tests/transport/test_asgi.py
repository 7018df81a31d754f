"""The plain ASGI transport against a server that is scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tunnels.transport import MAX_MESSAGE
from tunnels.transport.asgi import AsgiTransport
from tunnels.transport.base import HIGH_WATER

from .receiver import SOON, Receiver, until

Message = dict[str, Any]


class Script:
    """The server's side: what it gives to ``receive``, what it was given by ``send``, and whether that takes more."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self.sent: list[Message] = []
        self.taking = asyncio.Event()
        self.taking.set()
        self.fault: Exception | None = None
        self.receiver = Receiver()
        self.transport = AsgiTransport(self.receive, self.send, self.receiver)

    async def receive(self) -> Message:
        message = await self.incoming.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Message) -> None:
        await self.taking.wait()
        if self.fault is not None:
            raise self.fault
        self.sent.append(message)

    def hear(self, data: bytes) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": data})

    def disconnect(self, code: int | None, reason: str = "") -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})


@asynccontextmanager
async def running() -> AsyncIterator[Script]:
    script = Script()
    task = asyncio.create_task(script.transport.run())
    await asyncio.wait_for(script.receiver.ready.wait(), SOON)
    try:
        yield script
        await asyncio.wait_for(task, SOON)
        assert len(script.receiver.lost) == 1, "told once that it is over"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_messages_go_both_ways_in_order():
    async with running() as script:
        for turn in range(5):
            script.hear(bytes([turn]))
            script.receiver.send(bytes([turn]))
        await until(lambda: len(script.sent) == len(script.receiver.messages) == 5)
        assert [message["bytes"] for message in script.sent] == script.receiver.messages
        script.disconnect(1000)


@pytest.mark.parametrize(("code", "heard"), [(4033, 4033), (1000, 1000), (None, 1006)])
async def test_the_end_is_told_with_the_code_of_the_peer(code, heard):
    async with running() as script:
        script.disconnect(code, "because")
    assert script.receiver.lost == [(heard, "because")]


async def test_a_close_leaves_behind_what_waits_and_ends_when_the_peer_answers():
    async with running() as script:
        script.receiver.send(b"last")
        script.transport.close(4032, "stopping")
        script.receiver.send(b"too late")
        await until(lambda: len(script.sent) == 2)
        assert script.sent[1] == {"type": "websocket.close", "code": 4032, "reason": "stopping"}
        assert script.sent[0]["bytes"] == b"last"
        script.disconnect(4032)
    assert script.receiver.lost == [(4032, "stopping")]


async def test_a_peer_that_does_not_answer_a_close_is_cut(monkeypatch):
    monkeypatch.setattr("tunnels.transport.asgi.CLOSE_TIMEOUT", 0.01)
    async with running() as script:
        script.taking.clear()
        script.receiver.send(b"never taken")
        script.transport.close(4032, "stopping")
    assert script.receiver.lost == [(4032, "stopping")]


async def test_an_abort_ends_at_once():
    async with running() as script:
        script.taking.clear()
        script.receiver.send(b"never taken")
        script.transport.abort()
    assert script.receiver.lost[0][0] == 1006


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "websocket.receive", "text": "text"}, 1003),
        ({"type": "websocket.receive", "bytes": None, "text": "text"}, 1003),
        ({"type": "websocket.receive", "bytes": bytes(MAX_MESSAGE + 1)}, 1009),
    ],
)
async def test_a_message_that_does_not_fit_is_refused_and_what_follows_is_not_looked_at(message, code):
    async with running() as script:
        script.incoming.put_nowait(message)
        script.hear(b"after")
        await until(lambda: script.sent)
        assert script.sent[0]["code"] == code
        script.disconnect(code)
    assert script.receiver.messages == []
    assert script.receiver.lost[0][0] == code


async def test_a_server_that_takes_no_more_pauses_the_sender():
    async with running() as script:
        script.taking.clear()
        piece = bytes(HIGH_WATER // 4)
        for _ in range(6):
            script.receiver.send(piece)
        assert script.receiver.flow == ["paused"]
        assert script.transport.unsent_bytes() == 6 * len(piece)
        script.taking.set()
        await until(lambda: script.receiver.flow == ["paused", "resumed"])
        await until(lambda: script.transport.unsent_bytes() == 0)
        script.disconnect(1000)


async def test_a_send_that_fails_ends_the_session():
    async with running() as script:
        script.fault = OSError("gone")
        script.receiver.send(b"x")
    assert script.receiver.lost[0][0] == 1006


async def test_a_cancelled_application_tells_its_receiver():
    script = Script()
    task = asyncio.create_task(script.transport.run())
    await asyncio.wait_for(script.receiver.ready.wait(), SOON)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(script.receiver.lost) == 1


async def test_a_fault_of_ours_is_in_the_log_and_not_taken_for_an_end_of_the_connection(caplog):
    def fail(message: bytes) -> None:
        raise RuntimeError("a fault of ours")

    async with running() as script:
        script.receiver.on_message = fail
        script.hear(b"x")
    assert "a fault of ours" in caplog.text
