"""A real gateway process per kind of ASGI server, a client to join it, and applications on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import struct
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tunnels.bridge import SocketBridge
from tunnels.endpoint import Endpoint, ProbeResult, StreamHandler, Timing
from tunnels.protocol import SUBPROTOCOL, ErrorCode, Exposure, Hello, Limits, Role, Stream, Target
from tunnels.transport.native import connect_native

ROOT = Path(__file__).parents[2]
BOUND = 20.0  # seconds that anything here may take

TUNNELS = [
    {"customer": "acmeco", "tunnel": "prod", "tokens": ["good", "second"], "tcp_ports": [25060, 2222, 8443]},
    {"customer": "acmeco", "tunnel": "staging", "tokens": ["other"], "tcp_ports": [25060]},
    {
        "customer": "globex",
        "tunnel": "narrow",
        "tokens": ["narrow"],
        "tcp_ports": [1],
        "max_sessions": 1,
        "max_streams": 2,
    },
]


async def until(condition: Callable[[], Any], what: str | Callable[[], str], bound: float = BOUND) -> Any:
    """Wait until *condition* holds and return what it gave; fail saying *what* was waited for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(bound):
            while True:
                found = condition()
                if isinstance(found, Awaitable):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.01)
    raise AssertionError(f"waited {bound:g} s for {what() if callable(what) else what}")


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection as a process does that is killed; abort() alone ends it in good order where all was read."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class GatewayProcess:
    """The process of tests/gateway/process.py and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, kind: str, log: Path) -> None:
        self.process = process
        self.kind = kind
        self.log = log
        self.port = 0
        self.events: list[dict[str, Any]] = []
        self._numbers = itertools.count()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.events.append(json.loads(line))

    def find(self, event: str, **facts: Any) -> dict[str, Any] | None:
        wanted = {"event": event, **facts}
        return next((e for e in reversed(self.events) if wanted.items() <= e.items()), None)

    async def wait_for(self, event: str, bound: float = BOUND, **facts: Any) -> dict[str, Any]:
        def describe() -> str:
            return f"{event} {facts}; the log:\n{self.read_log()}"

        return await until(lambda: self.find(event, **facts), describe, bound)

    async def command(self, do: str, **arguments: Any) -> None:
        """Have the process do something; returns when it has."""
        assert self.process.stdin is not None
        number = next(self._numbers)
        self.process.stdin.write(json.dumps({"do": do, "number": number, **arguments}).encode() + b"\n")
        await self.wait_for("done", number=number)

    async def stats(self) -> dict[str, Any]:
        self.events = [e for e in self.events if e["event"] != "stats"]
        await self.command("stats")
        return await self.wait_for("stats")

    async def port_of(self, port: int, tunnel: str = "acmeco/prod") -> int:
        """Return where *port* of the tunnel listens, once it does."""

        async def listening() -> int | None:
            tunnels = (await self.stats())["tunnels"]
            return tunnels.get(tunnel, {}).get("ports", {}).get(str(port))

        return await until(listening, f"port {port} of {tunnel}")

    async def http_port(self, tunnel: str = "acmeco/prod") -> int:
        async def listening() -> int | None:
            return (await self.stats())["tunnels"].get(tunnel, {}).get("http")

        return await until(listening, f"HTTP of {tunnel}")

    def url(self, tunnel: str = "acmeco/prod") -> str:
        return f"ws://127.0.0.1:{self.port}/{tunnel}"

    def read_log(self) -> str:
        return self.log.read_text()

    async def stop(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()
        await self._reader


StartGateway = Callable[..., Awaitable[GatewayProcess]]


@pytest_asyncio.fixture
async def start_gateway(tmp_path: Path) -> AsyncIterator[StartGateway]:
    started: list[GatewayProcess] = []

    async def start(kind: str = "native", tunnels: Any = TUNNELS, **description: Any) -> GatewayProcess:
        log = tmp_path / f"gateway-{len(started)}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.gateway.process", kind, cwd=ROOT,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr, limit=1 << 22,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        gateway = GatewayProcess(process, kind, log)
        started.append(gateway)
        assert process.stdin is not None
        process.stdin.write(json.dumps({"tunnels": tunnels, **description}).encode() + b"\n")
        gateway.port = (await gateway.wait_for("ready"))["port"]
        return gateway

    yield start
    for gateway in started:
        await gateway.stop()


@pytest_asyncio.fixture(params=["native", "daphne", "uvicorn"])
async def gateway(request: pytest.FixtureRequest, start_gateway: StartGateway) -> GatewayProcess:
    """The same suite on each transport."""
    return await start_gateway(request.param)


class TestClient:
    """A client without reconnecting: ports to local addresses, one session."""

    __test__ = False

    def __init__(self, upstreams: dict[int, tuple[str, int]], limits: Limits, timing: Timing | None) -> None:
        self.upstreams = upstreams
        self.exposures: list[Exposure] = []
        self.closed: asyncio.Future[tuple[ErrorCode, str]] = asyncio.get_running_loop().create_future()
        self.opened: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self.draining: tuple[ErrorCode, float, str] | None = None
        hello = Hello("test/1", uuid.uuid4().hex, limits, Exposure(tcp_ports=tuple(upstreams)))
        self.endpoint = Endpoint(Role.CLIENT, hello, self, timing)
        self._tasks: set[asyncio.Task[None]] = set()

    def session_opened(self, hello: Hello) -> None:
        self.opened.set_result(hello)

    def session_closed(self, code: ErrorCode, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result((code, reason))

    def session_draining(self, code: ErrorCode, deadline: float, reason: str) -> None:
        self.draining = (code, deadline, reason)

    def exposure_changed(self, exposure: Exposure) -> None:
        self.exposures.append(exposure)

    def probe_requested(self, probe_id: int, target: Target) -> None:
        code = ErrorCode.OK if target.port in self.upstreams else ErrorCode.UNKNOWN_UPSTREAM
        self.endpoint.send_report(probe_id, ProbeResult(code, 0.001, f"about {target}"))

    def stream_opened(self, stream: Stream) -> StreamHandler:
        bridge = SocketBridge(self.endpoint)
        bridge.bind(stream)
        task = asyncio.create_task(self._dial(stream, bridge))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return bridge

    async def _dial(self, stream: Stream, bridge: SocketBridge) -> None:
        address = self.upstreams.get(stream.target.port)
        if address is None:
            self.endpoint.reject_stream(stream, ErrorCode.UNKNOWN_UPSTREAM, f"no upstream for {stream.target}")
            return
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError:
            sock.close()
            self.endpoint.reject_stream(stream, ErrorCode.UPSTREAM_REFUSED, "refused")
            return
        self.endpoint.accept_stream(stream)
        bridge.connect(sock)


ConnectClient = Callable[..., Awaitable[TestClient]]


@pytest_asyncio.fixture
async def connect_client() -> AsyncIterator[ConnectClient]:
    clients: list[TestClient] = []

    async def connect(
        gateway: GatewayProcess,
        upstreams: dict[int, tuple[str, int]] | None = None,
        *,
        token: str = "good",
        tunnel: str = "acmeco/prod",
        limits: Limits | None = None,
        timing: Timing | None = None,
    ) -> TestClient:
        client = TestClient(upstreams or {}, limits or Limits(), timing)
        clients.append(client)
        headers = {"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": SUBPROTOCOL}
        await connect_native(
            gateway.url(tunnel), client.endpoint, headers=headers, ssl_context=None, proxy=None, timeout=BOUND
        )
        async with asyncio.timeout(BOUND):
            await asyncio.wait({client.opened, client.closed}, return_when=asyncio.FIRST_COMPLETED)
        return client

    yield connect
    for client in clients:
        client.endpoint.close(ErrorCode.OK, "the test is over")
        if client.endpoint.transport is not None:
            client.endpoint.transport.abort()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
StartUpstream = Callable[[Handler], Awaitable[tuple[str, int]]]


@pytest_asyncio.fixture
async def start_upstream() -> AsyncIterator[StartUpstream]:
    """Start a TCP server of the customer's; it is closed with the test."""
    servers: list[asyncio.Server] = []

    async def start(handler: Handler) -> tuple[str, int]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await handler(reader, writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
        servers.append(server)
        return server.sockets[0].getsockname()

    yield start
    for server in servers:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back, then half-close."""
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
