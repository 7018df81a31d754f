"""The plain ASGI transport: ``receive`` and ``send`` of any ASGI server.

Slower than the native one, and a server may queue without bound on either side: the windows of the protocol are then
the only bound, and they suffice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from .base import HIGH_WATER, LOW_WATER, MAX_MESSAGE, MessageReceiver, MessageTransport

AsgiMessage = MutableMapping[str, Any]
AsgiReceive = Callable[[], Awaitable[AsgiMessage]]
AsgiSend = Callable[[AsgiMessage], Awaitable[None]]

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 2.0  # seconds


class AsgiTransport(MessageTransport):
    """One WebSocket that an ASGI server holds, already accepted."""

    headroom = 0
    kind = "asgi"

    def __init__(self, receive: AsgiReceive, send: AsgiSend, receiver: MessageReceiver) -> None:
        self._receive = receive
        self._send = send
        self._receiver = receiver
        self._queue: deque[AsgiMessage] = deque()
        self._queued = 0
        self._paused = False
        self._close: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self._cut = asyncio.Event()

    def send_message(self, buffer: bytearray) -> None:
        if self._close is None:
            self._queue.append({"type": "websocket.send", "bytes": bytes(buffer)})
            self._queued += len(buffer)
            self._wake.set()
            if self._queued > HIGH_WATER and not self._paused:
                self._paused = True
                self._receiver.sending_paused()

    def unsent_bytes(self) -> int:
        return self._queued

    def close(self, code: int, reason: str) -> None:
        if self._close is None:
            self._close = (code, reason)
            text = reason.encode()[:120].decode("utf-8", "ignore")
            self._queue.append({"type": "websocket.close", "code": code, "reason": text})
            self._wake.set()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._cut.set)

    def abort(self) -> None:
        self._cut.set()

    async def run(self) -> None:
        """Carry messages until the WebSocket is gone, then tell the receiver why."""
        self._receiver.transport_ready(self)
        reading = asyncio.ensure_future(self._read())
        writing = asyncio.ensure_future(self._write())
        cut = asyncio.ensure_future(self._cut.wait())
        code, reason = 1006, "the connection was cut"
        try:
            await asyncio.wait({reading, cut, writing}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not reading.cancelled():
                fault = reading.exception()
                if fault is None:
                    code, reason = reading.result()
                else:
                    logger.error("a message could not be handled; the session ends", exc_info=fault)
            if self._close is not None:
                code, reason = self._close
        finally:
            for task in (reading, writing, cut):
                task.cancel()
            await asyncio.gather(reading, writing, cut, return_exceptions=True)
            self._receiver.transport_lost(code, reason)

    async def _read(self) -> tuple[int, str]:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code") or 1006), message.get("reason") or "the connection was closed"
            data = message.get("bytes")
            if data is None:
                self.close(1003, "a text message, binary expected")
            elif len(data) > MAX_MESSAGE:
                self.close(1009, f"a message of more than {MAX_MESSAGE} bytes")
            elif self._close is None:
                self._receiver.message_received(memoryview(data))

    async def _write(self) -> None:
        """Send the queue in order; return when the connection refuses more."""
        while True:
            while self._queue:
                message = self._queue.popleft()
                await self._send(message)
                if message["type"] == "websocket.close":
                    await asyncio.Event().wait()  # until the peer answers or time is up
                self._queued -= len(message["bytes"])
                if self._paused and self._queued < LOW_WATER:
                    self._paused = False
                    self._receiver.sending_resumed()
            self._wake.clear()
            await self._wake.wait()
