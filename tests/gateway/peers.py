"""Several gateways in this process that share a portal in memory, and clients that join them without a network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tunnels.endpoint import Endpoint, StreamHandler
from tunnels.gateway.directory import GatewayReport, Notice, Refused, SessionReport, Usage
from tunnels.gateway.gateway import Gateway
from tunnels.gateway.options import GatewayOptions
from tunnels.gateway.tunnel import LiveTunnel
from tunnels.protocol import SUBPROTOCOL, ErrorCode, Limits, Stream, Target

from .conftest import BOUND, TestClient, until

HEADROOM = 14
SECRET = "the secret of this installation, long enough"
HTTP = Target(8000, "*")
TCP = Target(1)


@dataclass(frozen=True)
class PeerGrant:
    customer: str = "acmeco"
    tunnel: str = "prod"
    tunnel_id: str = "1"
    token_id: str = "good"
    tcp_ports: Mapping[int, int] = field(default_factory=lambda: {1: 0}, hash=False)
    http_port: int | None = 0
    hosts: tuple[str, ...] = ()
    revision: int = 1
    max_sessions: int = 16
    max_streams: int = 4096


@dataclass(frozen=True)
class PeerHolder:
    gateway: str
    address: str
    hop_port: int
    draining: bool = False


@dataclass(frozen=True)
class PeerRoute:
    customer: str
    tunnel: str
    tunnel_id: str
    tcp_ports: Mapping[int, int]
    http_port: int | None
    hosts: tuple[str, ...]
    revision: int
    max_streams: int
    holders: tuple[PeerHolder, ...]


class Portal:
    """The rows that all gateways share: the tunnels by token, the gateways, the sessions.

    *silent* keeps notices back; *forged* routes stand in for what the rows say.
    """

    def __init__(self, *grants: PeerGrant) -> None:
        self.grants = {grant.token_id: grant for grant in grants or (PeerGrant(),)}
        self.gateways: dict[str, GatewayReport] = {}
        self.sessions: dict[str, SessionReport] = {}
        self.silent = False
        self.broken = False
        self.forged: dict[str, tuple[PeerHolder, ...]] = {}
        self.asked: list[frozenset[str] | None] = []
        self.gate = asyncio.Event()  # answers about routes wait for it
        self.gate.set()
        self._queues: list[asyncio.Queue[Notice]] = []

    def publish(self, tunnel_id: str, *, sessions_only: bool = True) -> None:
        for queue in [] if self.silent else self._queues:
            queue.put_nowait(Notice(tunnel_id, sessions_only))

    def route(self, grant: PeerGrant) -> PeerRoute | None:
        holding = {s.gateway for s in self.sessions.values() if s.tunnel_id == grant.tunnel_id}
        holders = tuple(
            PeerHolder(report.name, report.address, report.hop_port, report.draining)
            for name, report in sorted(self.gateways.items())
            if name in holding
        )
        holders = self.forged.get(grant.tunnel_id, holders)
        if not holders:
            return None
        return PeerRoute(
            grant.customer, grant.tunnel, grant.tunnel_id, grant.tcp_ports, grant.http_port, grant.hosts,
            grant.revision, grant.max_streams, holders,
        )  # fmt: skip

    # -- Directory ----------------------------------------------------------------------------------------------------

    async def authorize(self, customer: str, tunnel: str, token: str, address: str) -> PeerGrant:
        grant = self.grants.get(token)
        if grant is None:
            raise Refused(401, "This token is not known.")
        return grant

    async def renew(self, grant: PeerGrant) -> PeerGrant:
        return self.grants[grant.token_id]

    async def gateway_started(self, report: GatewayReport) -> None:
        self.gateways[report.name] = report

    async def gateway_draining(self, gateway: str) -> None:
        self.gateways[gateway] = replace(self.gateways[gateway], draining=True)
        self._publish_held(gateway)

    async def gateway_stopped(self, gateway: str) -> None:
        self._publish_held(gateway)
        del self.gateways[gateway]

    async def session_opened(self, report: SessionReport) -> None:
        self.sessions[report.session_id] = report
        self.publish(report.tunnel_id)

    async def session_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None:
        self.publish(self.sessions.pop(session_id).tunnel_id)

    async def heartbeat(self, report: GatewayReport, sessions: Mapping[str, Usage]) -> None:
        self.gateways[report.name] = report

    async def routes(self, tunnel_ids: Collection[str] | None) -> list[Any]:
        self.asked.append(None if tunnel_ids is None else frozenset(tunnel_ids))
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("the database is down")
        grants = [g for g in self.grants.values() if tunnel_ids is None or g.tunnel_id in tunnel_ids]
        return [route for route in map(self.route, grants) if route is not None]

    async def changes(self) -> AsyncGenerator[Notice, None]:
        queue: asyncio.Queue[Notice] = asyncio.Queue()
        self._queues.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.remove(queue)

    def _publish_held(self, gateway: str) -> None:
        for tunnel_id in {s.tunnel_id for s in self.sessions.values() if s.gateway == gateway}:
            self.publish(tunnel_id)


class MemoryTransport:
    """One side of a WebSocket that is none: messages go straight to the other side."""

    headroom = HEADROOM
    kind = "memory"

    def __init__(self, receiver: Endpoint) -> None:
        self.receiver = receiver
        self.other: MemoryTransport
        self.lost = False
        self._loop = asyncio.get_running_loop()

    def send_message(self, buffer: bytearray) -> None:
        self._loop.call_soon(self.other.deliver, bytes(buffer[HEADROOM:]))

    def deliver(self, message: bytes) -> None:
        if not self.lost:
            self.receiver.message_received(memoryview(message))

    def unsent_bytes(self) -> int:
        return 0

    def close(self, code: int, reason: str) -> None:
        for side in (self, self.other):
            self._loop.call_soon(side.lose, code, reason)

    def abort(self) -> None:
        self.close(1006, "")

    def lose(self, code: int, reason: str) -> None:
        if not self.lost:
            self.lost = True
            self.receiver.transport_lost(code, reason)


class PeerClient(TestClient):
    """A client that remembers where its streams come from, and moves on when its gateway stops, as ours does."""

    __test__ = False

    def __init__(self, upstreams: dict[int, tuple[str, int]]) -> None:
        super().__init__(upstreams, Limits(), None)
        self.sources: list[str] = []
        self.refused: int | None = None

    def stream_opened(self, stream: Stream) -> StreamHandler:
        self.sources.append(stream.source)
        return super().stream_opened(stream)

    async def accept(self, endpoint: Endpoint, subprotocol: str) -> None:
        """Be the hand-over that the gateway finds in the scope."""
        gateway_side, client_side = MemoryTransport(endpoint), MemoryTransport(self.endpoint)
        gateway_side.other, client_side.other = client_side, gateway_side
        endpoint.transport_ready(gateway_side)  # type: ignore[arg-type]
        self.endpoint.transport_ready(client_side)  # type: ignore[arg-type]

    def refuse(self, response: bytes) -> None:
        self.refused = int(response.split()[1])
        self.reason = response.partition(b"\r\n\r\n")[2].decode().strip()


class Peers:
    """Gateways on one portal."""

    def __init__(self, *grants: PeerGrant) -> None:
        self.portal = Portal(*grants)
        self.gateways: list[Gateway] = []

    async def start(self, name: str, **options: Any) -> Gateway:
        given = {"address": "127.0.0.1", "hop_port": 0, "hop_secret": SECRET, **options}
        gateway = Gateway(self.portal, GatewayOptions(name, **given))
        self.gateways.append(gateway)
        await asyncio.wait_for(gateway.start(), BOUND)
        return gateway

    async def connect(
        self, gateway: Gateway, upstreams: dict[int, tuple[str, int]] | None = None, *, token: str = "good"
    ) -> PeerClient:
        """Join a client; where it was refused its *refused* has the status."""
        client = PeerClient(upstreams or {})
        grant = self.portal.grants[token]

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        scope = {
            "type": "websocket",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "subprotocols": [SUBPROTOCOL],
            "url_route": {"kwargs": {"customer": grant.customer, "tunnel": grant.tunnel}},
            "client": ("203.0.113.9", 1),
            "extensions": {"moorline.handover": client},
        }
        await gateway(scope, receive, receive)  # type: ignore[arg-type]
        if client.refused is None:
            await asyncio.wait_for(client.opened, BOUND)
        return client

    async def stop(self) -> None:
        for gateway in self.gateways:
            for session in gateway.registry.sessions():
                session.endpoint.close(ErrorCode.OK, "the test is over")
            with contextlib.suppress(KeyError):
                await gateway.stop()


async def listening(gateway: Gateway, target: Target = TCP, tunnel_id: str = "1") -> int:
    """Return where *gateway* listens for a target of a tunnel, once it does."""
    found: int = await until(lambda: port_of(gateway, target, tunnel_id), f"{target} to be listened for")
    return found


def port_of(gateway: Gateway, target: Target = TCP, tunnel_id: str = "1") -> int | None:
    tunnel = gateway.registry.get(tunnel_id)
    return tunnel.listening_on(target) if tunnel is not None else None


def hop_port(gateway: Gateway) -> int:
    assert gateway._hop is not None
    return gateway._hop.port


def holder(gateway: Gateway) -> PeerHolder:
    return PeerHolder(gateway._options.name, "127.0.0.1", hop_port(gateway))


def tunnel_of(gateway: Gateway, tunnel_id: str = "1") -> LiveTunnel:
    tunnel = gateway.registry.get(tunnel_id)
    assert tunnel is not None
    return tunnel
