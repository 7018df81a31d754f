"""Answer a WebSocket upgrade that somebody else has read, and run the native transport on the socket itself."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, Final

from picows import WSAutoPingStrategy, WSUpgradeResponse, WSUpgradeResponseWithListener, picows

from .base import MAX_MESSAGE, MessageReceiver
from .native import NativeListener

READ_BUFFER: Final = 16384  # bytes; picows grows it with what arrives

MAX_READ: Final = 131_072  # bytes read at a time
MAX_TURN: Final = 524_288  # bytes after which the sessions of others have their turn

_WSProtocol: Any = getattr(picows, "WSProtocol")  # noqa: B009 - it is there; its type is not


class BoundedProtocol(_WSProtocol):  # type: ignore[misc]
    """picows' protocol, for a peer who floods: it keeps neither much memory nor the loop.

    picows' own buffer would double as long as what arrives fills it, and libuv reads on and on from a socket that has
    more.
    """

    _read = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        view: memoryview = super().get_buffer(sizehint)
        return view[:MAX_READ]

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self._read += nbytes
        if self._read >= MAX_TURN:
            self._read = 0
            transport = self.transport.underlying_transport
            if not transport.is_closing():
                transport.pause_reading()
                asyncio.get_running_loop().call_soon(_read_on, transport)


def _read_on(transport: asyncio.ReadTransport) -> None:
    if not transport.is_closing():
        transport.resume_reading()


async def accept_native(
    sock: socket.socket, request: bytes, receiver: MessageReceiver, *, headers: dict[str, str], timeout: float
) -> None:
    """Answer the upgrade *request* that was read from *sock*, and give the open WebSocket to *receiver*.

    Arguments: the raw request head and whatever was read behind it; *headers* of the answer, among them the
    subprotocol; *timeout* in seconds.
    The socket is the transport's from now on. Raises OSError where it is gone.
    """

    def choose_listener(_request: object) -> WSUpgradeResponseWithListener:
        response = WSUpgradeResponse.create_101_response(extra_headers=headers)
        return WSUpgradeResponseWithListener(response, NativeListener(receiver))

    protocol = BoundedProtocol(
        None,
        None,
        False,
        choose_listener,
        logging.getLogger("picows"),
        True,
        timeout,
        False,  # liveness is the protocol's PING, which passes every proxy
        20,
        20,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # pings of the peer are answered by the listener, within bounds
        MAX_MESSAGE,
        None,
        READ_BUFFER,
    )
    sock.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)
    view = protocol.get_buffer(len(request))
    if len(view) < len(request):
        protocol.transport.disconnect(graceful=False)
        raise ConnectionAbortedError("the upgrade request is too large")
    view[: len(request)] = request
    protocol.buffer_updated(len(request))
