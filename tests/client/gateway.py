"""A gateway in the test's own process: it takes or refuses clients and listens for in-cluster connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from picows import (
    WSListener,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from tests.client.waiting import until
from tunnels.bridge import ProtocolBridge, SocketBridge
from tunnels.client.dialling import loop_watches_sockets
from tunnels.endpoint import Endpoint, StreamHandler, Timing
from tunnels.protocol import SUBPROTOCOL, ErrorCode, Exposure, Hello, Role, Stream, Target
from tunnels.transport import GATEWAY_HEADER, MAX_MESSAGE
from tunnels.transport.native import NativeListener

TOKEN = "mt_a-token-that-no-log-shows"
REFUSAL_HEADERS = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
CUSTOMER, TUNNEL = "acmeco", "prod"


class GatewaySide:
    """One client's session, as the gateway sees it."""

    def __init__(self, name: str, exposure: Exposure) -> None:
        self.endpoint = Endpoint(Role.GATEWAY, Hello("test-gateway", name, exposure=exposure), self, Timing())
        self.client: Hello | None = None
        self.draining: tuple[ErrorCode, float] | None = None
        self.ended: tuple[ErrorCode, str] | None = None

    def session_opened(self, hello: Hello) -> None:
        self.client = hello

    def session_draining(self, code: ErrorCode, deadline: float, reason: str) -> None:
        self.draining = (code, deadline)

    def session_closed(self, code: ErrorCode, reason: str) -> None:
        self.ended = (code, reason)

    def stream_opened(self, stream: Stream) -> StreamHandler:
        raise AssertionError("a client opened a stream")

    def probe_requested(self, probe_id: int, target: Target) -> None:
        raise AssertionError("a client probed")

    def exposure_changed(self, exposure: Exposure) -> None:
        raise AssertionError("a client sent UPDATE")

    @property
    def live(self) -> bool:
        return self.client is not None and self.ended is None


class ClosingListener(WSListener):
    """Take the WebSocket and close it with a code, as a plain ASGI server refuses."""

    def __init__(self, code: int, reason: str) -> None:
        self._code, self._reason = code, reason

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send_close(self._code, self._reason)  # type: ignore[arg-type]

    def on_ws_frame(self, transport: WSTransport, frame: object) -> None:
        transport.disconnect()


class InProcessGateway:
    """A gateway for one tunnel; ``answer`` can be set to refuse who comes.

    With ``names`` it is several gateways behind one address: each connection reaches the next of them.
    """

    def __init__(self, name: str = "gw-1") -> None:
        self.name = name
        self.exposure = Exposure(CUSTOMER, TUNNEL)
        self.sessions: list[GatewaySide] = []
        self.requests: list[WSUpgradeRequest] = []
        self.answer: Callable[[], WSUpgradeResponseWithListener] | None = None
        self.selected = SUBPROTOCOL
        self.names: Iterator[str] | None = None
        self.port = 0
        self._watches = loop_watches_sockets(asyncio.get_running_loop())
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []

    async def start(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._server = await ws_create_server(self._take, "127.0.0.1", port, max_frame_size=MAX_MESSAGE, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        await self.kill()

    async def kill(self) -> None:
        """End as a killed process does: no word to anybody."""
        if self._server is not None:
            self._server.close()
        for session in self.sessions:
            if session.endpoint.transport is not None:
                session.endpoint.transport.abort()
        await until(lambda: all(s.endpoint.transport is None for s in self.sessions), "the connections to be gone")

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/{CUSTOMER}/{TUNNEL}"

    @property
    def live(self) -> list[GatewaySide]:
        return [session for session in self.sessions if session.live]

    async def wait_for_session(self, count: int = 1) -> GatewaySide:
        """Wait for *count* live sessions and return the newest."""
        await until(lambda: len(self.live) >= count, f"{count} sessions")
        return self.live[-1]

    def refuse(self, status: int, reason: str = "", headers: dict[str, str] | None = None) -> None:
        """Refuse on the HTTP level from now on, with the headers that a gateway's refusals have."""
        given = {**REFUSAL_HEADERS, **(headers or {})}

        def answer() -> WSUpgradeResponseWithListener:
            response = WSUpgradeResponse.create_error_response(status, reason.encode() or None, given)
            return WSUpgradeResponseWithListener(response, None)

        self.answer = answer

    def refuse_by_close(self, code: int, reason: str) -> None:
        """Refuse by a close code right after the upgrade from now on."""

        def answer() -> WSUpgradeResponseWithListener:
            response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": SUBPROTOCOL})
            return WSUpgradeResponseWithListener(response, ClosingListener(code, reason))

        self.answer = answer

    def listen(self, target: Target) -> tuple[str, int]:
        """Listen for in-cluster connections to *target*, as a gateway does; return the address."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        listener.setblocking(False)
        self._listeners.append(listener)
        task = asyncio.ensure_future(self._accept(listener, target))
        self._tasks.add(task)
        return listener.getsockname()

    def _take(self, request: WSUpgradeRequest) -> Any:
        self.requests.append(request)
        if self.answer is not None:
            return self.answer()
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return WSUpgradeResponseWithListener(
                WSUpgradeResponse.create_error_response(401, b"who?", REFUSAL_HEADERS), None
            )
        headers = {"Sec-WebSocket-Protocol": self.selected}
        name = self.name
        if self.names is not None:
            name = headers[GATEWAY_HEADER] = next(self.names)
        session = GatewaySide(name, self.exposure)
        self.sessions.append(session)
        response = WSUpgradeResponse.create_101_response(headers)
        return WSUpgradeResponseWithListener(response, NativeListener(session.endpoint))

    async def _accept(self, listener: socket.socket, target: Target) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            endpoint = next((s.endpoint for s in reversed(self.live) if not s.endpoint.draining), None)
            if endpoint is None:
                sock.close()
            elif self._watches:
                bridge = SocketBridge(endpoint)
                bridge.bind(endpoint.open_stream(target, "10.1.2.3:4567", bridge))
                bridge.connect(sock)
            else:
                deaf = ProtocolBridge(endpoint)
                deaf.bind(endpoint.open_stream(target, "10.1.2.3:4567", deaf))
                await loop.create_connection(lambda bridge=deaf: bridge, sock=sock)  # type: ignore[misc]


class Service:
    """A TCP service on the customer's side; it counts its connections."""

    def __init__(self, handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.connections = 0
        self.port = 0
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, port: int = 0, context: ssl.SSLContext | None = None, backlog: int = 100) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", port, ssl=context, backlog=backlog)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self._handle(reader, writer)
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give back every byte, and the half-close."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def greet(name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Return a service that says *name* and then echoes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{name}\n".encode())
        await echo(reader, writer)

    return handle


async def ask(address: tuple[str, int], question: bytes = b"", timeout: float = 10.0) -> bytes:
    """Connect, send *question* with a half-close, and return all that comes back."""
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(*address)
        try:
            with contextlib.suppress(OSError):  # reset already; reading says so
                writer.write(question)
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()
