"""The ASGI applications: the one joint between the portal and the data plane.

``application`` serves both roles on any ASGI server; ``serve`` runs one role or both on ours.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from enum import Enum
from typing import Any

from channels.db import DatabaseSyncToAsync
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import URLPattern, re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.config.settings")
_django: Any = get_asgi_application()  # before anything that imports models

from portal import authorization, notices, queries  # noqa: E402
from portal.metrics import GatewayCollector, PortalCollector, serve_metrics  # noqa: E402
from portal.services import gateways, sessions  # noqa: E402
from tunnels.gateway.addresses import parse_networks  # noqa: E402
from tunnels.gateway.admission import Door, respond_plainly  # noqa: E402
from tunnels.gateway.directory import (  # noqa: E402
    GatewayReport,
    Grant,
    Notice,
    Refused,
    Route,
    SessionReport,
    Usage,
)
from tunnels.gateway.gateway import Gateway  # noqa: E402
from tunnels.gateway.ledger import describe  # noqa: E402
from tunnels.gateway.options import GatewayOptions  # noqa: E402
from tunnels.protocol import ErrorCode  # noqa: E402

logger = logging.getLogger(__name__)

Asgi = Callable[..., Awaitable[Any]]

# A tunnel's address is two DNS-1123 labels with no slash behind; no customer is named like the portal's own pages.
PORTAL_PATH = r"^(?:admin|static)/"
TUNNEL_PATH = r"^(?P<customer>[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)/(?P<tunnel>[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\Z"
ANY_PATH = r"^(?P<customer>[^/]*)/?(?P<tunnel>(?s:.*))\Z"
FORM_PATHS = ("/admin/",)
DATABASE_THREADS = 4


class Role(Enum):
    """What one process serves."""

    PORTAL = "portal"
    GATEWAY = "gateway"
    ALL = "all"


class PortalDirectory:
    """The gateway's questions, answered by the portal's services on threads of their own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="gateway-database")

    async def authorize(self, customer: str, tunnel: str, token: str, address: str) -> Grant:
        return await self._decide(authorization.authorize, customer=customer, tunnel=tunnel, token=token)

    async def renew(self, grant: Grant) -> Grant:
        return await self._decide(authorization.renew, grant)

    async def gateway_started(self, report: GatewayReport) -> None:
        await self._run(sessions.close_gateway_sessions, gateway=report.name)
        await self._run(gateways.register_gateway, **_describe_gateway(report))

    async def gateway_draining(self, gateway: str) -> None:
        await self._run(gateways.drain_gateway, name=gateway)

    async def gateway_stopped(self, gateway: str) -> None:
        await self._run(gateways.remove_gateway, name=gateway)

    async def session_opened(self, report: SessionReport) -> None:
        await self._run(
            sessions.open_session,
            session_id=report.session_id,
            tunnel_id=report.tunnel_id,
            token_id=report.token_id,
            gateway=report.gateway,
            client_version=report.client_version,
            client_instance=report.client_instance,
            client_address=report.client_address,
            transport=report.transport,
            opened_at=report.opened_at,
        )

    async def session_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None:
        carried = (usage.bytes_received, usage.bytes_sent)
        await self._run(sessions.close_session, session_id=session_id, code=code, reason=reason, carried=carried)

    async def heartbeat(self, report: GatewayReport, live: Mapping[str, Usage]) -> None:
        carried = {session_id: (usage.bytes_received, usage.bytes_sent) for session_id, usage in live.items()}
        await self._run(gateways.heartbeat_gateway, **_describe_gateway(report), draining=report.draining)
        await self._run(sessions.heartbeat_sessions, gateway=report.name, carried=carried)

    async def routes(self, tunnel_ids: Collection[str] | None) -> Sequence[Route]:
        ids = None if tunnel_ids is None else [int(tunnel_id) for tunnel_id in tunnel_ids if tunnel_id.isdecimal()]
        routes: list[Route] = await self._run(queries.find_routes, ids)
        return routes

    async def changes(self) -> AsyncGenerator[Notice, None]:
        async with aclosing(notices.watch_changes()) as changes:
            async for change in changes:
                yield Notice(change.tunnel_id, sessions_only=change.sessions_only)

    async def _decide(self, question: Callable[..., authorization.Grant], *args: Any, **kwargs: Any) -> Grant:
        try:
            grant: Grant = await self._run(question, *args, **kwargs)
        except authorization.Refused as refused:
            code = ErrorCode.DISABLED if refused.disabled else ErrorCode.REVOKED
            raise Refused(refused.status, refused.reason, code=code) from None
        return grant

    async def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = DatabaseSyncToAsync(function, thread_sensitive=False, executor=self._threads)
        return await call(*args, **kwargs)


def _describe_gateway(report: GatewayReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "address": report.address,
        "hop_port": report.hop_port,
        "version": report.version,
        "customers": list(report.customers),
    }


class Health:
    """``/healthz`` and ``/readyz``: the portal's answers, but 503 until the gateway has begun and once it stops."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: MutableMapping[str, Any], receive: Asgi, send: Asgi) -> None:
        state = await self._state() if scope["path"] == "/readyz" else "ready"
        if state != "ready":
            body = b'{"status": "%b"}' % state.encode()
            headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await _django(scope, receive, send)

    async def _state(self) -> str:
        if self._gateway.draining:
            return "draining"
        if not self._gateway.ready:
            # On a server that says nothing of its start this may be the first that anybody hears of the gateway.
            try:
                await self._gateway.start()
            except Exception as error:
                logger.error("the gateway could not start: %s", describe(error))
                return "starting"
        return "ready"


async def answer_not_found(scope: MutableMapping[str, Any], receive: Asgi, send: Asgi) -> None:
    """Answer a request for what this process does not serve."""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await Door(scope, receive, send).refuse(
            Refused(404, "This is the portal; tunnels are at the gateway's address.")
        )
    else:
        await respond_plainly(send, Refused(404, "This is the gateway; there is no page at this address."))


class Lifespan:
    """Start and stop the gateway on servers that tell when (ASGI lifespan); Daphne does not."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: MutableMapping[str, Any], receive: Asgi, send: Asgi) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._gateway.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._gateway.drain(settings.MOORLINE_DRAIN_TIMEOUT)
                await self._gateway.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def serve(role: Role, *, host: str, port: int, native: bool, drain_timeout: float) -> str | None:
    """Serve *role* until SIGTERM or SIGINT, drain for up to *drain_timeout* seconds, stop.

    With *native* the gateway takes the sockets over from Daphne. Returns what went wrong in a sentence, or None.
    """
    # Imported here: it chooses the event loop and installs Twisted's reactor, which other ASGI servers don't want.
    from tunnels.gateway.server import TunnelServer, run_server  # noqa: PLC0415

    gateway = None if role is Role.PORTAL else make_gateway()
    server = TunnelServer(
        make_application(role, gateway),
        host=host,
        port=port,
        native=native,
        body_paths=() if role is Role.GATEWAY else FORM_PATHS,
    )
    try:
        stop_metrics = start_metrics(role, gateway)
    except OSError as error:
        return f"can't listen on port {settings.MOORLINE_METRICS_PORT} (MOORLINE_METRICS_PORT): {error.strerror}."
    try:
        return run_server(server, gateway, drain_timeout=drain_timeout)
    finally:
        stop_metrics()


def start_metrics(role: Role, gateway: Gateway | None) -> Callable[[], None]:
    """Offer the metrics of this process on MOORLINE_METRICS_PORT, if set; return what stops that."""
    if not settings.MOORLINE_METRICS_PORT:
        return lambda: None
    collectors: list[Any] = [] if role is Role.GATEWAY else [PortalCollector()]
    if gateway is not None:
        collectors.append(GatewayCollector(lambda: count_gateway(gateway)))
    return serve_metrics(settings.MOORLINE_METRICS_PORT, collectors)


def count_gateway(gateway: Gateway) -> dict[str, float]:
    """Count what a gateway holds now."""
    tunnels = list(gateway.registry)
    return {
        "moorline_gateway_tunnels": len(tunnels),
        "moorline_gateway_sessions": sum(len(tunnel.sessions) for tunnel in tunnels),
        "moorline_gateway_streams": sum(tunnel.streams for tunnel in tunnels),
        "moorline_gateway_connections": sum(tunnel.connections for tunnel in tunnels),
        "moorline_gateway_draining": gateway.draining,
    }


def make_gateway() -> Gateway:
    """Return the gateway of this process, as the settings say."""
    options = GatewayOptions(
        name=settings.MOORLINE_GATEWAY_NAME,
        listen_host=settings.MOORLINE_LISTEN_HOST,
        trusted_proxies=parse_networks(settings.MOORLINE_TRUSTED_PROXIES),
        customers=tuple(settings.MOORLINE_GATEWAY_CUSTOMERS),
        address=settings.MOORLINE_GATEWAY_ADDRESS,
        hop_port=settings.MOORLINE_HOP_PORT,
        hop_secret=settings.MOORLINE_HOP_SECRET,
        linger=settings.MOORLINE_LISTENER_LINGER,
    )
    return Gateway(PortalDirectory(), options)


def make_application(role: Role, gateway: Gateway | None) -> ProtocolTypeRouter:
    """Return the ASGI application of *role*; all but the portal alone need a *gateway*."""
    if gateway is None:
        return ProtocolTypeRouter({"http": _django, "websocket": answer_not_found})
    health = Health(gateway)
    pages = [_route(r"^(?:healthz|readyz)\Z", health), _route(TUNNEL_PATH, gateway)]
    if role is Role.ALL:
        pages = [_route(PORTAL_PATH, _django), *pages, _route(r"", _django)]
    else:
        pages.append(_route(r"", answer_not_found))
    return ProtocolTypeRouter(
        {
            "http": URLRouter(pages),
            "websocket": URLRouter([_route(ANY_PATH, gateway)]),
            "lifespan": Lifespan(gateway),
        }
    )


def _route(pattern: str, application: Any) -> URLPattern:
    """Return a route of Channels; Django's types expect a view where an ASGI application stands."""
    return re_path(pattern, application)


application = make_application(Role.ALL, make_gateway())
