"""The native transport: picows, a WebSocket in C over the event loop's own transport, for both sides."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from picows import (
    WSCloseCode,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    ws_connect,
)

from .base import GATEWAY_HEADER, HIGH_WATER, LOW_WATER, MAX_MESSAGE, MessageReceiver, MessageTransport

logger = logging.getLogger(__name__)

HEADROOM: Final = 14  # the longest WebSocket header: 2 bytes, 8 of length, 4 of mask
CLOSE_TIMEOUT: Final = 2.0  # seconds
CLOSE_TURNS: Final = 15  # how many of them at the most
MAX_FRAGMENTS: Final = 1024  # of one message; empty ones would have no end

NOTSENT_LOWAT: Final = 128 * 1024
_BINARY: Final = WSMsgType.BINARY

# Every failure reaches the receiver with a code and is logged there, once, in our words.
logging.getLogger("picows").setLevel(logging.CRITICAL + 1)


class NativeTransport(MessageTransport):
    """One WebSocket of picows, on either side."""

    __slots__ = ("_close_timer", "_socket", "_underlying")

    headroom = HEADROOM
    kind = "native"

    def __init__(self, websocket: WSTransport) -> None:
        self._socket = websocket
        self._underlying = websocket.underlying_transport
        self._close_timer: asyncio.TimerHandle | None = None
        self._underlying.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        raw = self._underlying.get_extra_info("socket")
        # The kernel reports the socket as writable only while little is unsent, so that an interactive stream waits
        # behind little of a bulk one. Not every system has the option.
        if raw is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)

    def send_message(self, buffer: bytearray) -> None:
        self._socket.send_reuse_external_bytearray(_BINARY, buffer, HEADROOM)

    def unsent_bytes(self) -> int:
        return self._underlying.get_write_buffer_size()

    def close(self, code: int, reason: str) -> None:
        if self._close_timer is None and not self._socket.is_disconnected:
            # RFC 6455 section 5.5: a control frame holds at most 125 bytes, 2 of them the code.
            text = reason.encode()[:120].decode("utf-8", "ignore")
            self._socket.send_close(code, text)  # type: ignore[arg-type]  # picows takes any number
            self._await_close()

    def _await_close(self, unsent_before: int | None = None, turns: int = CLOSE_TURNS) -> None:
        """Give the peer CLOSE_TIMEOUT to answer, and again while what is unsent grows less: slow is not dead."""
        unsent = self.unsent_bytes()
        if not turns or (unsent_before is not None and not 0 < unsent < unsent_before):
            self.abort()
            return
        loop = asyncio.get_running_loop()
        self._close_timer = loop.call_later(CLOSE_TIMEOUT, self._await_close, unsent, turns - 1)

    def abort(self) -> None:
        self._socket.disconnect(graceful=False)

    def closed(self) -> None:
        """Stop what waits; the connection is gone."""
        if self._close_timer is not None:
            self._close_timer.cancel()


class NativeListener(WSListener):
    """What picows calls: it tells a receiver in our words."""

    def __init__(self, receiver: MessageReceiver) -> None:
        self._receiver = receiver
        self._transport: NativeTransport | None = None
        self._parts = bytearray()  # a message that came in fragments (RFC 6455 section 5.4)
        self._fragments = 0
        self._fault: tuple[int, str] | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = NativeTransport(transport)
        self._receiver.transport_ready(self._transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        try:
            self._receive_frame(transport, frame)
        except Exception:
            logger.exception("a fault of Moorline's own ended a session; please report it")
            self._refuse(WSCloseCode.INTERNAL_ERROR.value, "a fault of the other end")

    def _receive_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is _BINARY and frame.fin and not self._fragments and not transport.is_close_frame_sent:
            self._receiver.message_received(frame.get_payload_as_memoryview())
        elif kind is WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                # RFC 6455 section 7.4.1: 1005 stands for a close without a code and is never sent.
                code = frame.get_close_code()
                transport.send_close(WSCloseCode.OK if code == WSCloseCode.NO_INFO else code)
            transport.disconnect()
        elif kind is WSMsgType.PING:
            self._answer_ping(transport, frame)
        elif transport.is_close_frame_sent:
            pass  # what was under way is not looked at; picows gives out even the frame that it refused as too long
        elif kind is _BINARY or kind is WSMsgType.CONTINUATION:
            # RFC 6455 section 5.4: a fragmented message is one frame of its kind, then continuations, and nothing else.
            if (kind is WSMsgType.CONTINUATION) == bool(self._fragments):
                self._receive_fragment(frame)
            else:
                self._refuse(WSCloseCode.PROTOCOL_ERROR.value, "a fragment out of turn")
        elif kind is WSMsgType.TEXT:
            self._refuse(WSCloseCode.UNSUPPORTED_DATA.value, "a text message, binary expected")

    def _answer_ping(self, transport: WSTransport, frame: WSFrame) -> None:
        # RFC 6455 section 5.5.2: of several pings the latest has to be answered. A peer that reads none of the answers
        # is not given more of them to keep in our memory.
        if self._transport is not None and self._transport.unsent_bytes() < LOW_WATER:
            transport.send_pong(frame.get_payload_as_bytes())

    def _receive_fragment(self, frame: WSFrame) -> None:
        self._fragments += 1
        self._parts += frame.get_payload_as_memoryview()
        if len(self._parts) > MAX_MESSAGE:
            self._parts = bytearray()
            self._refuse(WSCloseCode.MESSAGE_TOO_BIG.value, f"a message of more than {MAX_MESSAGE} bytes")
        elif self._fragments > MAX_FRAGMENTS:
            self._refuse(WSCloseCode.MESSAGE_TOO_BIG.value, f"a message of more than {MAX_FRAGMENTS} fragments")
        elif frame.fin:
            self._fragments = 0
            message, self._parts = self._parts, bytearray()
            self._receiver.message_received(memoryview(message))

    def _refuse(self, code: int, reason: str) -> None:
        self._fault = (code, reason)
        if self._transport is not None:
            self._transport.close(code, reason)

    def pause_writing(self) -> None:
        self._receiver.sending_paused()

    def resume_writing(self) -> None:
        self._receiver.sending_resumed()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._transport is not None:
            self._transport.closed()
        code, reason = self._fault or _close_of(transport)
        self._receiver.transport_lost(code, reason)


def _close_of(websocket: WSTransport) -> tuple[int, str]:
    """Return the code and reason a WebSocket was closed with: the peer's, else ours, else 1006."""
    handshake = websocket.close_handshake
    if handshake is not None:
        for side in (handshake.recv, handshake.sent) if handshake.recv_then_sent else (handshake.sent, handshake.recv):
            if side is not None:
                return cast(int, side.code), side.reason  # picows gives a number here
    return 1006, "the connection was cut"


class GatewayUnwanted(Exception):
    """The gateway that was reached, the argument, is not the one that is wanted; nothing was said to it."""


async def connect_native(
    url: str,
    receiver: MessageReceiver,
    *,
    headers: dict[str, str],
    ssl_context: ssl.SSLContext | None,
    proxy: str | None,
    timeout: float,
    wants: Callable[[str], bool] | None = None,
) -> None:
    """Dial *url* (ws or wss) and give the open WebSocket to *receiver*.

    Arguments: extra request *headers*; *proxy*, the URL of an HTTP or SOCKS proxy; *timeout* in seconds for all of
    it: name, proxy, TLS and upgrade; *wants* is asked about the gateway that was reached, where it tells its name.
    Raises OSError, ssl.SSLError, TimeoutError, python_socks.ProxyError, GatewayUnwanted or picows.WSHandshakeError,
    whose ``response.status`` tells a refusal.
    """
    offered = headers.get("Sec-WebSocket-Protocol")

    def make_listener(request: WSUpgradeRequest, response: WSUpgradeResponse) -> NativeListener:
        # RFC 6455 section 4.1: the server selects one of the subprotocols that were offered.
        selected = response.headers.get("Sec-WebSocket-Protocol")
        if selected != offered:
            raise WSHandshakeError(f"the server speaks {selected or 'no subprotocol'}, not {offered}")
        gateway = response.headers.get(GATEWAY_HEADER, "")
        if gateway and wants is not None and not wants(gateway):
            raise GatewayUnwanted(gateway)
        return NativeListener(receiver)

    async with asyncio.timeout(timeout):
        _, listener = await ws_connect(
            make_listener,
            url,
            ssl_context=ssl_context,
            extra_headers=headers,
            proxy=proxy,
            max_redirects=0,
            enable_auto_pong=False,  # the listener answers
            max_frame_size=MAX_MESSAGE,
            websocket_handshake_timeout=timeout,
            read_buffer_init_size=4096,
        )
    if listener is None:  # picows takes an end before the answer for a success
        raise ConnectionResetError(errno.ECONNRESET, "the connection was closed during the WebSocket upgrade")
