"""A receiver that writes down what a transport tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tunnels.transport import MessageTransport

SOON = 10.0  # seconds; what is waited for comes at once


class Receiver:
    def __init__(self) -> None:
        self.transport: MessageTransport
        self.ready = asyncio.Event()
        self.messages: list[bytes] = []
        self.flow: list[str] = []
        self.lost: list[tuple[int, str]] = []
        self.on_message: Callable[[bytes], None] | None = None

    def transport_ready(self, transport: MessageTransport) -> None:
        self.transport = transport
        self.ready.set()

    def message_received(self, message: memoryview) -> None:
        self.messages.append(bytes(message))
        if self.on_message is not None:
            self.on_message(bytes(message))

    def sending_paused(self) -> None:
        self.flow.append("paused")

    def sending_resumed(self) -> None:
        self.flow.append("resumed")

    def transport_lost(self, code: int, reason: str) -> None:
        self.lost.append((code, reason))

    def send(self, data: bytes) -> None:
        self.transport.send_message(bytearray(self.transport.headroom) + data)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)
