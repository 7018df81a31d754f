"""A tunnel while it has sessions, here or on another gateway: its listeners, and who takes the next connection."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

from ..endpoint import Endpoint, StreamHandler
from ..protocol import ErrorCode, Stream, StreamRefused, Target
from .addresses import Network
from .directory import Holder, Layout
from .hop import Passage, Relay, Request
from .http import HttpConnection, HttpLimits
from .listeners import HttpListener, Listener, Refuse, Rules, TcpListener
from .session import GatewaySession

logger = logging.getLogger(__name__)

HTTP_SERVICE_PORT: Final = 8000  # the port that OPEN names for HTTP, the same for every tunnel
HTTP: Final = Target(HTTP_SERVICE_PORT, "*")
REPEAT_AFTER: Final = 10.0  # seconds before the same refusal is logged again
REPEAT_UNBOUND_AFTER: Final = 300.0  # seconds before it is said again that a port can't be listened on


@dataclass(frozen=True, slots=True)
class Place:
    """Where listeners bind, how HTTP is limited, whose X-Forwarded headers are believed, who passes connections on."""

    host: str
    http_limits: HttpLimits
    trusted_proxies: tuple[Network, ...] = ()
    relay: Relay | None = None


class LiveTunnel:
    """The sessions of one tunnel, the gateways that hold others, and the listeners they all serve."""

    def __init__(self, layout: Layout, place: Place) -> None:
        self.layout = layout
        self.sessions: list[GatewaySession] = []
        self.holders: Sequence[Holder] = ()  # other gateways with sessions of it
        self.held_open = False  # this gateway is stopping, and still takes connections
        self._place = place
        self._listeners: dict[Target, Listener] = {}
        self._accepting = True
        self._rules = Rules(
            candidates=self.candidates,
            refuse_more=lambda: self._refuse_beyond_limit(self.connections),
            refuse_more_here=lambda: self._refuse_beyond_limit(self._connections_here),
            report_refusal=self._report_refusal,
            pass_on=self._pass_on,
        )
        self._turn = itertools.count()
        self._reported: dict[tuple[Target, ErrorCode | str | None], float] = {}

    def __str__(self) -> str:
        return f"{self.layout.customer}/{self.layout.tunnel}"

    @property
    def live_sessions(self) -> list[GatewaySession]:
        """The sessions that take new streams."""
        return [session for session in self.sessions if session.usable]

    @property
    def wanted(self) -> bool:
        """Whether its listeners are to be there: somebody has a session of it, or will have one in a moment."""
        return self.held_open or bool(self.holders) or any(session.opened_at is not None for session in self.sessions)

    @property
    def moving(self) -> bool:
        """Whether a gateway that holds it is stopping, so that its sessions will be somewhere else soon."""
        return self.held_open or any(holder.draining for holder in self.holders)

    @property
    def streams(self) -> int:
        return sum(session.endpoint.streams for session in self.sessions)

    @property
    def connections(self) -> int:
        """How many connections of applications there are."""
        return sum(listener.connections for listener in self._listeners.values())

    def listening_on(self, target: Target) -> int | None:
        """Return the port that listens for *target*, None where none does."""
        listener = self._listeners.get(target)
        return listener.port if listener is not None else None

    def candidates(self) -> Iterator[Endpoint]:
        """Yield the endpoints for a new stream: round robin, the others after it."""
        sessions = self.live_sessions
        first = next(self._turn)
        for index in range(len(sessions)):
            yield sessions[(first + index) % len(sessions)].endpoint

    def open_stream(self, target: Target, source: str, handler: StreamHandler) -> tuple[Endpoint, Stream]:
        """Open a stream on the next session that takes it; raises StreamRefused where none does."""
        refusal = StreamRefused(ErrorCode.LOST, "no client is connected")
        for endpoint in self.candidates():
            try:
                return endpoint, endpoint.open_stream(target, source, handler)
            except StreamRefused as error:
                refusal = error
        raise refusal

    def take(self, target: Target, sock: socket.socket, source: str, greeting: bytes = b"") -> StreamRefused | None:
        """Bring a connection for *target* to a session here, or say why that can't be; then it is still the caller's.

        Arguments: the application's *source* address; a *greeting* to write before anything else.
        """
        listener = self._listeners.get(target)
        if not self.live_sessions:
            return StreamRefused(ErrorCode.LOST, "no client is connected")
        if listener is None:
            return StreamRefused(ErrorCode.UNKNOWN_UPSTREAM, f"nothing listens for {target}")
        return listener.take(sock, source, greeting)

    def apply(self, layout: Layout) -> None:
        """Take what is known of the tunnel: open and close listeners to match, tell the clients what they don't know.

        Answers of the portal may come out of order: one that is older than what is known changes nothing.
        """
        if layout.revision > self.layout.revision:
            log = logger.info if self.sessions else logger.debug
            log("%s: changed, now with ports %s", self, sorted(layout.tcp_ports) or "none")
        if layout.revision >= self.layout.revision:
            self.layout = layout
        self.open_listeners()
        for session in self.sessions:
            session.tell(self.layout)

    def open_listeners(self) -> None:
        """Bind what is wanted and not yet bound, close what is wanted no more.

        A port that can't be bound is one line in the log and tried again with the next change or renewal.
        """
        wanted = {Target(port): listen_port for port, listen_port in self.layout.tcp_ports.items()}
        if self.layout.http_port is not None:
            wanted[HTTP] = self.layout.http_port
        for target in [target for target in self._listeners if target not in wanted]:
            self._listeners.pop(target).close()
        for target, port in wanted.items():
            listener = self._listeners.get(target)
            if listener is not None and port not in (0, listener.port):
                self._listeners.pop(target).close()
                listener = None
            if listener is None and self._accepting:
                self._open_listener(target, port)

    def _open_listener(self, target: Target, port: int) -> None:
        host = self._place.host
        try:
            if target is HTTP:
                connection = self._make_http_connection
                listener: Listener = HttpListener(host, port, target, self._rules, connection=connection)
            else:
                listener = TcpListener(host, port, target, self._rules)
        except OSError as error:
            if self._may_report(target, error.strerror, REPEAT_UNBOUND_AFTER):
                logger.error(
                    "%s: can't listen on %s:%d for %s (%s); free that port or give the tunnel another one",
                    self, host, port, "HTTP" if target is HTTP else target, error.strerror,
                )  # fmt: skip
            return
        self._listeners[target] = listener

    def stop_accepting(self) -> None:
        """Close the listeners for good; connections that are open go on."""
        self._accepting = self.held_open = False
        for listener in self._listeners.values():
            listener.stop_accepting()

    def set_holders(self, holders: Sequence[Holder]) -> None:
        """Take who else holds sessions of the tunnel."""
        if list(holders) != list(self.holders):
            self.holders = holders
            self.sessions_changed()

    def sessions_changed(self) -> None:
        """See what a session more or less, here or elsewhere, or one that takes no more streams changes.

        Connections that wait are woken. HTTP connections without a session here would get nothing but errors, however
        many gateways have one: they are closed, and the next one is passed on.
        """
        if self._place.relay is not None:
            self._place.relay.note_change(self.layout.tunnel_id)
        if not self.live_sessions:
            for listener in self._listeners.values():
                listener.drain_connections()

    def finish(self) -> list[Listener]:
        """Close the listeners; return them with what connections still have last bytes to write."""
        listeners = list(self._listeners.values())
        self._listeners.clear()
        for listener in listeners:
            listener.finish()
        return listeners

    @property
    def _connections_here(self) -> int:
        """How many connections go over sessions of this gateway."""
        return sum(listener.own_connections for listener in self._listeners.values())

    def _refuse_beyond_limit(self, connections: int) -> StreamRefused | None:
        """Say why there may be no more than so many *connections*, on all ports together; None where there may.

        There may be twice as many as the sessions may carry: one of HTTP needs no stream while it is idle, one that
        writes its last bytes has none any more. Without a bound one tunnel's could take every descriptor of the
        process.
        """
        limit = 2 * self.layout.max_streams * max(1, len(self.live_sessions) + len(self.holders))
        if connections < limit:
            return None
        return StreamRefused(ErrorCode.LIMIT, f"the tunnel has {limit} connections already")

    def _pass_on(
        self, target: Target, sock: socket.socket, source: str, refuse: Refuse, on_end: Callable[[Passage], None]
    ) -> Passage | None:
        """Begin to bring a connection to another gateway; None where there is none that could take it."""
        relay = self._place.relay
        if relay is None or not (self.holders or self.moving):
            return None
        return Passage(relay, Request(self.layout.tunnel_id, target, source), sock, refuse, on_end)

    def _make_http_connection(self, source: str, on_end: Callable[[], None]) -> HttpConnection:
        return HttpConnection(
            self.open_stream,
            peer=source,
            tunnel=str(self),
            limits=self._place.http_limits,
            on_end=on_end,
            trusted=self._place.trusted_proxies,
            port=HTTP_SERVICE_PORT,
        )

    def _report_refusal(self, target: Target, code: ErrorCode, reason: str) -> None:
        """Log why a connection was reset; the same reason not more than every REPEAT_AFTER seconds."""
        if self._may_report(target, code, REPEAT_AFTER):
            logger.warning("%s %s: connections are reset: %s (%s)", self, target, reason, code.name)

    def _may_report(self, target: Target, what: ErrorCode | str | None, pause: float) -> bool:
        now = monotonic()
        if now - self._reported.get((target, what), -pause) < pause:
            return False
        self._reported[(target, what)] = now
        return True
