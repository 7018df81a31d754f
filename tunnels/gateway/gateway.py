"""The gateway: an ASGI application at ``/<customer>/<tunnel>`` that admits clients and keeps what they serve alive."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, Final

from .. import __version__
from ..endpoint import ProbeResult
from ..protocol import SUBPROTOCOL, ErrorCode, Target
from ..transport.asgi import AsgiReceive, AsgiSend
from .addresses import client_address
from .admission import Door, Scope, respond_plainly
from .directory import Directory, GatewayReport, Grant, Notice, Refused
from .hop import Answer, HopListener, Relay, Request
from .ledger import Ledger, describe
from .options import GatewayOptions, StartFailed
from .presence import Presence
from .registry import Registry
from .routes import Routes
from .session import GatewaySession
from .throttle import KnownTokens, Throttle
from .tunnel import LiveTunnel, Place

logger = logging.getLogger(__name__)

HEARTBEAT_INTERVAL: Final = 15.0  # seconds
RENEW_INTERVAL: Final = 30.0  # seconds; a change that no notice told of is seen by then
WATCH_DELAY: Final = 1.0  # seconds before it listens to notices again that have failed
DIRECTORY_TIMEOUT: Final = 10.0  # seconds for one question to the portal
MAX_TOKEN: Final = 256  # characters
_ANSWERS: Final = {ErrorCode.LIMIT: Answer.LIMIT, ErrorCode.UNKNOWN_UPSTREAM: Answer.UNKNOWN}


class Gateway:
    """Admits clients, holds their sessions, ends them when the portal says so, and drains.

    ``await start()`` before the first client and ``await stop()`` at the end; the instance is the ASGI application.
    On a server that has no start-up of its own (plain Daphne) the first client starts it.
    """

    def __init__(self, directory: Directory, options: GatewayOptions) -> None:
        self.draining = False
        self.ready = False  # it has begun, and listens for what the others hold
        self._directory = directory
        self._options = options
        self._relay = Relay(options.hop_secret, self._find_tunnel, self._reread) if options.has_peers else None
        place = Place(options.listen_host, options.http_limits, options.trusted_proxies, self._relay)
        self.registry = Registry(place)
        self._routes = Routes(directory, self.registry, options.name, options.customers)
        self._hop: HopListener | None = None
        self._presence = Presence(directory, self._report(options.hop_port))
        self._ledger = Ledger(directory)
        self._throttle = Throttle()
        self._known = KnownTokens()
        self._notices = 0  # how many changes were told of
        self._renewing: dict[LiveTunnel, bool] = {}  # and whether to ask once more
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Tell the portal that this gateway begins anew, and listen to it from now on; once."""
        if self._starting is None or (self._starting.done() and self._starting.exception() is not None):
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        self._listen_to_peers()
        await self._presence.begin()
        if self._options.has_peers:
            await self._routes.load()
            self._spawn(self._routes.run())
        self._ledger.start()
        self._spawn(self._watch_changes())
        self._spawn(self._renew_regularly())
        self._spawn(self._send_heartbeats())
        self.ready = True

    def _listen_to_peers(self) -> None:
        options = self._options
        if not options.has_peers or self._hop is not None:
            return
        try:
            self._hop = HopListener(
                options.listen_host, options.hop_port, options.name, options.hop_secret, self._take_hop
            )
        except OSError as error:
            raise StartFailed(
                f"it can't listen on {options.listen_host}:{options.hop_port} for other gateways ({error.strerror}). "
                "Free that port or set MOORLINE_HOP_PORT."
            ) from error
        self._presence.report = self._report(self._hop.port)

    def _report(self, hop_port: int) -> GatewayReport:
        options = self._options
        hop_port = hop_port if options.has_peers else 0
        return GatewayReport(options.name, options.address, hop_port, __version__, options.customers)

    async def drain(self, timeout: float) -> None:
        """Take no more clients; let streams finish for *timeout* seconds, then close.

        New connections are taken for *linger* seconds more, for the gateways that the clients have gone to; without
        others, for none.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        begun, sessions = loop.time(), self.registry.sessions()
        linger = min(self._options.linger if self._relay is not None else 0.0, timeout)
        if sessions:
            logger.info("draining: %d sessions have up to %.0f s to finish", len(sessions), timeout)
        if linger:
            self.registry.hold_listeners()
        else:
            self.registry.stop_accepting()
        self._spawn(self._presence.drain())
        for session in sessions:
            session.endpoint.announce_end(ErrorCode.SHUTDOWN, timeout, "the gateway is stopping")
            self.registry.draining(session)
        if linger:
            await asyncio.sleep(linger)
            self.registry.stop_accepting()
        while self.registry.busy:
            left = begun + timeout - loop.time()
            if left <= 0:
                break
            await asyncio.sleep(min(left, 0.05))
        for session in self.registry.sessions():
            session.endpoint.close(ErrorCode.SHUTDOWN, "the gateway is stopping")

    async def stop(self) -> None:
        """End every session and every task; after :meth:`drain`, or instead of it."""
        self.draining = True
        for session in self.registry.sessions():
            session.endpoint.close(ErrorCode.SHUTDOWN, "the gateway is stopping")
        self.registry.reset_connections()
        if self._hop is not None:
            await self._hop.stop()
        if self._relay is not None:
            self._relay.stop()
        await self._ledger.stop(DIRECTORY_TIMEOUT)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.ready:
            self.ready = False
            await self._presence.end()

    # -- admission ----------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] != "websocket":
            await respond_plainly(send, Refused(426, "A tunnel is reached by a WebSocket: run the moorline client."))
            return
        await receive()  # websocket.connect
        door = Door(scope, receive, send)
        try:
            session = await self._admit(scope)
        except Refused as refused:
            await door.refuse(refused)
            return
        try:
            await door.accept(session.endpoint)
        finally:
            if session.endpoint.transport is None:
                self.registry.remove(session)  # the upgrade came to nothing, or the session is over

    async def _admit(self, scope: Scope) -> GatewaySession:
        """Return the session of a client that may connect, with its place held; raises Refused."""
        address = self._address_of(scope)
        names = scope["url_route"]["kwargs"]
        wanted = f"{names['customer']}/{names['tunnel']}"
        try:
            grant, notices = await self._authorize(scope, address)
        except Refused as refused:
            logger.warning("refused %s for %s: %d %s", address, printable(wanted), refused.status, refused.reason)
            raise
        session = GatewaySession(
            grant=grant,
            gateway=self._options.name,
            address=address,
            agent=f"moorline-gateway/{__version__}",
            notices=notices,
            opened=self._session_opened,
            draining=self.registry.draining,
            ended=self._session_ended,
            timing=self._options.timing,
        )
        self.registry.add(session)
        return session

    async def _authorize(self, scope: Scope, address: str) -> tuple[Grant, int]:
        """Return the grant of a client and of how many changes it knows; raises Refused."""
        if self.draining:
            raise Refused(503, "This gateway is stopping; connect again.", retry_after=1)
        if SUBPROTOCOL not in (scope.get("subprotocols") or []):
            raise Refused(426, f"This gateway speaks {SUBPROTOCOL}; update the moorline client.")
        token = bearer_token(scope)
        if token in self._known:  # good lately, whoever else tries tokens at its address
            grant, notices = await self._ask(scope, token, address)
        else:
            grant, notices = await self._ask_in_turn(scope, token, address)
        if self._options.customers and grant.customer not in self._options.customers:
            raise Refused(
                404,
                f"This gateway does not serve the customer {grant.customer}. Ask your provider for the address of the "
                "gateway that does, and put its host into the URL.",
            )
        if self.registry.count_sessions(grant) >= grant.max_sessions:
            raise Refused(
                409,
                f"The tunnel has its {grant.max_sessions} sessions already. Stop a client that is not needed, or ask "
                "your provider for more.",
            )
        return grant, notices

    async def _ask_in_turn(self, scope: Scope, token: str, address: str) -> tuple[Grant, int]:
        try:
            async with self._throttle.turn(address):
                wait = self._throttle.wait_for(address)
                if wait:
                    raise Refused(429, f"Too many wrong tokens from this address; wait {wait} s.", retry_after=wait)
                return await self._ask(scope, token, address)
        except TimeoutError as error:
            reason = "Too many clients connect from this address at once; this is retried."
            raise Refused(429, reason, retry_after=1) from error

    async def _ask(self, scope: Scope, token: str, address: str) -> tuple[Grant, int]:
        """Ask the portal about a token, and remember what it says; raises Refused."""
        names = scope["url_route"]["kwargs"]
        notices = self._notices
        try:
            await self.start()
            async with asyncio.timeout(DIRECTORY_TIMEOUT):
                grant = await self._directory.authorize(names["customer"], names["tunnel"], token, address)
            if self._notices != notices:  # something changed while the portal was asked
                notices = self._notices
                async with asyncio.timeout(DIRECTORY_TIMEOUT):
                    grant = await self._directory.renew(grant)
        except Refused as refused:
            self._known.discard(token)
            if refused.status == 401:
                self._throttle.note_failure(address)
            raise
        except Exception as error:
            logger.error("the portal could not be asked about a token: %s", describe(error))
            raise Refused(503, "The provider's portal does not answer; this is retried.", retry_after=5) from error
        self._known.add(token)
        self._throttle.note_success(address)
        return grant, notices

    def _address_of(self, scope: Scope) -> str:
        client = scope.get("client")
        return client_address(client[0] if client else "unknown", scope["headers"], self._options.trusted_proxies)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _session_opened(self, session: GatewaySession) -> None:
        client = session.client
        logger.info("%s: connected, %s", session, client.agent if client else "")
        self._ledger.note_opened(session.report())
        if self.draining:
            session.endpoint.close(ErrorCode.SHUTDOWN, "the gateway is stopping")
            return
        tunnel = self.registry.opened(session)
        if session.notices != self._notices:  # something changed since the portal was asked
            self._spawn(self._renew(tunnel))

    def _session_ended(self, session: GatewaySession, code: ErrorCode, reason: str) -> None:
        logger.info("%s: ended, %s (%s)", session, reason or "closed", code.name)
        self.registry.remove(session)
        if session.opened_at is not None:
            self._ledger.note_closed(session.session_id, code.name, reason, session.usage)

    async def probe(self, customer: str, tunnel: str, target: Target, timeout: float) -> ProbeResult:
        """Have a client of the tunnel dial *target*; *timeout* in seconds."""
        live = self.registry.find(customer, tunnel)
        endpoint = next(live.candidates(), None) if live is not None else None
        if endpoint is None:
            return ProbeResult(ErrorCode.LOST, 0.0, "no client is connected")
        return await endpoint.probe(target, timeout)

    # -- what the portal says -----------------------------------------------------------------------------------------

    async def _watch_changes(self) -> None:
        while True:
            try:
                async with aclosing(self._directory.changes()) as changes:
                    async for notice in changes:
                        self._take_notice(notice)
            except Exception as error:
                logger.error("the portal's notices of changes failed; listening again: %s", describe(error))
            await asyncio.sleep(WATCH_DELAY)

    def _take_notice(self, notice: Notice) -> None:
        if self._options.has_peers:
            self._routes.note(notice.tunnel_id)
        if not notice.sessions_only:
            self._notices += 1
            for tunnel in [self.registry.get(notice.tunnel_id)] if notice.tunnel_id else self.registry:
                if tunnel is not None and tunnel.sessions:
                    self._spawn(self._renew(tunnel))

    async def _renew_regularly(self) -> None:
        while True:
            await asyncio.sleep(RENEW_INTERVAL)
            for tunnel in self.registry:
                await self._renew(tunnel)

    async def _renew(self, tunnel: LiveTunnel) -> None:
        """Renew a live tunnel, never twice at a time: a change meanwhile is asked about once more, behind."""
        if tunnel in self._renewing:
            self._renewing[tunnel] = True
            return
        self._renewing[tunnel] = True
        try:
            while self._renewing[tunnel]:
                self._renewing[tunnel] = False
                await self._renew_once(tunnel)
        except Exception as error:
            logger.error("%s: it could not be renewed; this is tried again: %s", tunnel, describe(error))
        finally:
            del self._renewing[tunnel]

    async def _renew_once(self, tunnel: LiveTunnel) -> None:
        """Ask again whether each token of a live tunnel holds, end the sessions of those that do not."""
        tokens: dict[str, list[GatewaySession]] = {}
        for session in tunnel.sessions:
            tokens.setdefault(session.grant.token_id, []).append(session)
        for sessions in tokens.values():
            try:
                async with asyncio.timeout(DIRECTORY_TIMEOUT):
                    grant = await self._directory.renew(sessions[0].grant)
            except Refused as refused:
                for session in sessions:
                    session.endpoint.close(refused.code, refused.reason)
            except Exception as error:
                logger.error("%s: the portal could not be asked; its sessions go on: %s", tunnel, describe(error))
            else:
                for session in sessions:
                    session.grant = grant
                if any(session.usable for session in sessions):
                    tunnel.apply(grant)

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            live = [session for session in self.registry.sessions() if session.opened_at is not None]
            await self._presence.beat({session.session_id: session.usage for session in live})

    # -- other gateways -----------------------------------------------------------------------------------------------

    def _find_tunnel(self, tunnel_id: str) -> LiveTunnel | None:
        return self.registry.get(tunnel_id)

    async def _reread(self, tunnel_id: str) -> None:
        await self._routes.reread(tunnel_id)

    def _take_hop(self, request: Request, sock: socket.socket, greeting: bytes) -> tuple[Answer, str]:
        """Take a connection that another gateway passes on, or say why not; it goes no further from here."""
        tunnel = self.registry.get(request.tunnel_id)
        refusal = tunnel.take(request.target, sock, request.source, greeting) if tunnel is not None else None
        if tunnel is not None and refusal is None:
            return Answer.TAKEN, ""
        if self.draining:
            return Answer.DRAINING, "the gateway is stopping"
        code = refusal.code if refusal is not None else ErrorCode.LOST
        return _ANSWERS.get(
            code, Answer.NO_SESSION
        ), refusal.reason if refusal is not None else "no client is connected"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def bearer_token(scope: Scope) -> str:
    """Return the token of ``Authorization: Bearer`` (RFC 6750 section 2.1), or "" where there is none to use."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            token = token.strip()
            if scheme.lower() == "bearer" and len(token) <= MAX_TOKEN:
                return str(token)
    return ""


def printable(text: str) -> str:
    """Return *text* fit for a log line: what a stranger put into a path stays on the line."""
    return text[:128] if text.isprintable() else ascii(text[:128])
