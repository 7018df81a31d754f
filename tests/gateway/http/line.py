"""A gateway and a client joined by a WebSocket in one process, with scripted upstreams and raw applications."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network

from picows import ws_create_server

from tunnels.bridge import ProtocolBridge
from tunnels.endpoint import Endpoint, StreamHandler
from tunnels.gateway.http import HttpConnection, HttpLimits
from tunnels.protocol import ErrorCode, Exposure, Hello, Role, Stream, StreamRefused, Target
from tunnels.transport.native import NativeListener, connect_native

BOUND = 10.0  # seconds that anything here may take

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until *condition* holds; fail saying *what* was waited for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BOUND):
            while not condition():
                await asyncio.sleep(0.002)
            return
    raise AssertionError(f"waited {BOUND:g} s for {what}")


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Return the bytes of one request with its body, exactly; b"" at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return b""
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.readexactly(1)
        return head + body
    if b"content-length: " in lower:
        return head + await reader.readexactly(int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    return head


class Upstream:
    """A server whose every connection runs *script*; it keeps count of them and of what they received."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.errors: list[BaseException] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.server: asyncio.Server

    async def start(self) -> int:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self.script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:
            self.errors.append(error)
        finally:
            self.tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert not self.errors, self.errors


class Echo:
    """A script that answers every request with *response* and remembers the requests."""

    def __init__(
        self, response: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", *, close: bool = False
    ) -> None:
        self.response = response
        self.close = close
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            self.requests.append(request)
            writer.write(self.response)
            await writer.drain()
            if self.close:
                return


class App:
    """An application: a raw connection to the tunnel's HTTP port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def port(self) -> int:
        return int(self.writer.get_extra_info("sockname")[1])

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(BOUND):
            return await self.reader.readexactly(size)

    async def read_head(self) -> bytes:
        async with asyncio.timeout(BOUND):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def read_response(self) -> tuple[bytes, bytes]:
        """Return the head and the body of a response with Content-Length."""
        head = await self.read_head()
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        return head, await self.read(length)

    async def read_all(self) -> bytes:
        """Return everything up to a clean end."""
        async with asyncio.timeout(BOUND):
            return await self.reader.read(-1)

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        self.send(request)
        return await self.read_response()


class _GatewaySide:
    def __init__(self) -> None:
        self.opened = asyncio.Event()

    def session_opened(self, hello: Hello) -> None:
        self.opened.set()

    def session_closed(self, code: ErrorCode, reason: str) -> None: ...
    def session_draining(self, code: ErrorCode, deadline: float, reason: str) -> None: ...
    def probe_requested(self, probe_id: int, target: Target) -> None: ...
    def exposure_changed(self, exposure: Exposure) -> None: ...
    def stream_opened(self, stream: Stream) -> StreamHandler:
        raise AssertionError("a client opened a stream")


class _ClientSide(_GatewaySide):
    """Dials the upstream of each host, or rejects with the code that stands in its place."""

    def __init__(self, hosts: dict[str, int | ErrorCode]) -> None:
        super().__init__()
        self.hosts = hosts
        self.endpoint: Endpoint
        self.tasks: set[asyncio.Task[None]] = set()
        self.targets: list[Target] = []
        self.bridges: list[ProtocolBridge] = []

    def stream_opened(self, stream: Stream) -> StreamHandler:
        bridge = ProtocolBridge(self.endpoint)
        bridge.bind(stream)
        self.targets.append(stream.target)
        self.bridges.append(bridge)
        place = self.hosts.get(stream.target.host, ErrorCode.UNKNOWN_UPSTREAM)
        if isinstance(place, ErrorCode):
            self.endpoint.reject_stream(stream, place, "as the test wants it")
        else:
            task = asyncio.ensure_future(self._dial(stream, bridge, place))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return bridge

    async def _dial(self, stream: Stream, bridge: ProtocolBridge, port: int) -> None:
        await asyncio.get_running_loop().create_connection(lambda: bridge, "127.0.0.1", port)
        self.endpoint.accept_stream(stream)


class Line:
    """The whole of it: ``await line.serve(host, script)``, then ``await line.connect()``."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self.connections: set[HttpConnection] = set()
        self.hosts: dict[str, int | ErrorCode] = {}
        self.upstreams: list[Upstream] = []
        self.apps: list[App] = []
        self.ended = 0
        self.trusted = False

    async def start(self) -> None:
        gateway = _GatewaySide()
        self.gateway = Endpoint(Role.GATEWAY, Hello(), gateway)
        self._websocket = await ws_create_server(
            lambda request: NativeListener(self.gateway), "127.0.0.1", 0, max_frame_size=1 << 18
        )
        self.client_side = _ClientSide(self.hosts)
        self.client = self.client_side.endpoint = Endpoint(Role.CLIENT, Hello(), self.client_side)
        port = self._websocket.sockets[0].getsockname()[1]
        await connect_native(
            f"ws://127.0.0.1:{port}/", self.client, headers={}, ssl_context=None, proxy=None, timeout=BOUND
        )
        await gateway.opened.wait()
        self._server = await asyncio.get_running_loop().create_server(self._make, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def _make(self) -> HttpConnection:
        return self.make_connection()

    def make_connection(self) -> HttpConnection:
        def end() -> None:
            self.ended += 1
            self.connections.remove(connection)

        connection = HttpConnection(
            self._open_stream,
            peer="192.0.2.7:4711",
            tunnel="acmeco/prod",
            limits=self.limits,
            on_end=end,
            trusted=[ip_network("192.0.2.0/24")] if self.trusted else [],
        )
        self.connections.add(connection)
        return connection

    def _open_stream(self, target: Target, source: str, handler: StreamHandler) -> tuple[Endpoint, Stream]:
        if not self.gateway.open:
            raise StreamRefused(ErrorCode.LOST, "no client is connected")
        return self.gateway, self.gateway.open_stream(target, source, handler)

    async def serve(self, host: str, script: Script) -> Upstream:
        upstream = Upstream(script)
        self.hosts[host] = await upstream.start()
        self.upstreams.append(upstream)
        return upstream

    async def connect(self, *, receive_buffer: int | None = None) -> App:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        app = App(*await asyncio.open_connection(sock=sock, limit=1 << 16))
        self.apps.append(app)
        return app

    async def stop(self) -> None:
        for app in self.apps:
            app.writer.transport.abort()
        self._server.close()
        await self._server.wait_closed()
        await until(lambda: not self.connections, "the connections to end")
        self.client.close(ErrorCode.SHUTDOWN, "the test is over")
        await until(lambda: self.gateway.transport is None, "the session to end")
        self._websocket.close()
        for upstream in self.upstreams:
            await upstream.stop()


@contextlib.asynccontextmanager
async def open_line(limits: HttpLimits | None = None) -> AsyncIterator[Line]:
    """A line that is up; with everything ended when it is left, whatever the test did."""
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    line = Line(limits or HttpLimits())
    await line.start()
    try:
        yield line
    finally:
        await line.stop()
    assert not errors, errors  # what a loop would only log
