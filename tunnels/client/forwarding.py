"""Forwarding: what happens when the gateway opens a stream or asks whether an upstream answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from ..bridge import Bridge, ProtocolBridge, SocketBridge
from ..endpoint import Endpoint, ProbeResult, StreamHandler
from ..protocol import ErrorCode, Stream, Target
from .balance import Balance, Health
from .dialling import DialFailed, Dialler, DialPolicy, loop_watches_sockets
from .upstreams import Route, Upstream, UpstreamTable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_PROBES: Final = 4  # probes that dial at a time
MAX_PROBES_WAITING: Final = 64
REPEAT_AFTER: Final = 60.0  # seconds before the same trouble with the same upstream is said again


class UpstreamProtocol(ProtocolBridge):
    """A bridge that accepts its stream when its connection is there: with TLS, after the handshake."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._endpoint.accept_stream(self.stream)
        super().connection_made(transport)


class Forwarder:
    """Join streams to upstreams: the one place that knows which are there and how they fare, for every session.

    Arguments: the *table* of upstreams and the *policy* of dialling. Make it on the event loop that it works on.
    """

    def __init__(self, table: UpstreamTable, policy: DialPolicy) -> None:
        self._table = table
        self._dialler = Dialler(policy)
        self._balances = {route: Balance(upstreams, time.monotonic) for route, upstreams in table.routes.items()}
        self._watches_sockets = loop_watches_sockets(asyncio.get_running_loop())
        self._tasks: set[asyncio.Task[None]] = set()
        self._probes = asyncio.Semaphore(MAX_PROBES)
        self._probes_waiting = 0
        self._refused_at: dict[Target, float] = {}
        self.connections: dict[Endpoint, int] = {}  # live ones by session; one without any is not in it

    def open_stream(self, endpoint: Endpoint, stream: Stream) -> StreamHandler:
        """Dial the upstream of *stream*, and answer the gateway when it is known how that went."""
        route = self._table.find_route(stream.target)
        joining: asyncio.Task[None] | None = None

        def end() -> None:
            if joining is not None:
                joining.cancel()
            self._count(endpoint, -1)

        upstreams = self._table.routes[route] if route is not None else []
        plain = self._watches_sockets and not any(upstream.tls for upstream in upstreams)
        bridge: Bridge = SocketBridge(endpoint, end) if plain else UpstreamProtocol(endpoint, end)
        bridge.bind(stream)
        if route is None:
            self._refuse(endpoint, stream)
        else:
            self._count(endpoint, 1)
            joining = self._start(self._join(endpoint, stream, bridge, route))
        return bridge

    def answer_probe(self, endpoint: Endpoint, probe_id: int, target: Target) -> None:
        """Dial the upstream of *target*, close the connection and report how that went."""
        route = self._table.find_route(target)
        if route is None:
            endpoint.send_report(probe_id, ProbeResult(ErrorCode.UNKNOWN_UPSTREAM, 0.0, _missing(target)))
        elif self._probes_waiting >= MAX_PROBES_WAITING:
            endpoint.send_report(probe_id, ProbeResult(ErrorCode.LIMIT, 0.0, "too many probes are under way"))
        else:
            self._start(self._probe(endpoint, probe_id, route))

    # -- streams ------------------------------------------------------------------------------------------------------

    async def _join(self, endpoint: Endpoint, stream: Stream, bridge: Bridge, route: Route) -> None:
        """Try the upstreams of *route* in turn; the first that answers gets the stream."""
        failure = DialFailed(ErrorCode.INTERNAL, "the client failed", "tell the provider, with this line")
        for health in self._balances[route].order():
            try:
                await self._connect(endpoint, stream, bridge, health.upstream)
            except DialFailed as error:
                failure = error
                self._note_failure(health, error)
            else:
                self._note_success(health)
                return
        self._count(endpoint, -1)
        endpoint.reject_stream(stream, failure.code, f"the upstream of {route}: {failure.reason}")

    async def _connect(self, endpoint: Endpoint, stream: Stream, bridge: Bridge, upstream: Upstream) -> None:
        sock = await self._dialler.connect(upstream)
        if isinstance(bridge, SocketBridge):
            endpoint.accept_stream(stream)
            bridge.connect(sock)
        elif isinstance(bridge, UpstreamProtocol):
            if upstream.tls:
                await self._dialler.start_tls(upstream, sock, lambda: bridge)
            else:
                await self._dialler.attach(sock, lambda: bridge)

    def _refuse(self, endpoint: Endpoint, stream: Stream) -> None:
        target = stream.target
        endpoint.reject_stream(stream, ErrorCode.UNKNOWN_UPSTREAM, _missing(target))
        now = time.monotonic()
        if now - self._refused_at.get(target, -math.inf) >= REPEAT_AFTER:
            if len(self._refused_at) > 1000:
                self._refused_at.clear()
            self._refused_at[target] = now
            log.warning(f"a connection for {target} was refused: {_missing(target)}", source=stream.source)

    # -- probes -------------------------------------------------------------------------------------------------------

    async def _probe(self, endpoint: Endpoint, probe_id: int, route: Route) -> None:
        self._probes_waiting += 1
        try:
            async with self._probes:
                started = time.monotonic()
                code, reason = await self._try_route(route)
                endpoint.send_report(probe_id, ProbeResult(code, time.monotonic() - started, reason))
        finally:
            self._probes_waiting -= 1

    async def _try_route(self, route: Route) -> tuple[ErrorCode, str]:
        failure = DialFailed(ErrorCode.INTERNAL, "the client failed", "")
        for health in self._balances[route].order():
            upstream = health.upstream
            try:
                sock = await self._dialler.connect(upstream)
                if upstream.tls:
                    (await self._dialler.start_tls(upstream, sock, asyncio.Protocol)).close()
                else:
                    sock.close()
            except DialFailed as error:
                failure = error
                self._note_failure(health, error)
            else:
                self._note_success(health)
                return ErrorCode.OK, ""
        return failure.code, f"the upstream of {route}: {failure.reason}"

    # -- what people are told -----------------------------------------------------------------------------------------

    def _note_failure(self, health: Health, error: DialFailed) -> None:
        now = time.monotonic()
        upstream = health.upstream
        if error.code is not ErrorCode.LIMIT:  # that is our trouble, not the upstream's
            health.note_failure(now)
        health.unsaid += 1
        if now - health.said_at >= REPEAT_AFTER:
            times = f" ({health.unsaid} times)" if health.unsaid > 1 else ""
            log.warning(f"upstream {upstream} for {upstream.route}: {error.reason}{times}: {error.advice}")
            health.said_at, health.unsaid = now, 0

    def _note_success(self, health: Health) -> None:
        if health.failures or health.unsaid:
            health.note_success()
            if health.said_at > -math.inf:
                log.info(f"upstream {health.upstream} for {health.upstream.route} answers again")
            health.said_at, health.unsaid = -math.inf, 0

    # -- bookkeeping --------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _count(self, endpoint: Endpoint, change: int) -> None:
        count = self.connections.get(endpoint, 0) + change
        if count:
            self.connections[endpoint] = count
        else:
            self.connections.pop(endpoint, None)


def _missing(target: Target) -> str:
    """Say what the customer's administrator has to add."""
    option = f"{target.host}=http://HOST:PORT" if target.host else f"{target.port}=HOST:PORT"
    return f"the client has no upstream for {target}; start it with --upstream {option} as well"
