"""A tunnel while it has sessions on this gateway: its listeners, and which session takes the next stream."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Final

from ..endpoint import Endpoint, StreamHandler
from ..protocol import ErrorCode, Stream, StreamRefused, Target
from .addresses import Network
from .directory import Grant
from .http import HttpConnection, HttpLimits
from .listeners import HttpListener, Listener, Rules, TcpListener
from .session import GatewaySession

logger = logging.getLogger(__name__)

HTTP_SERVICE_PORT: Final = 8000  # the port that OPEN names for HTTP, the same for every tunnel
REPEAT_AFTER: Final = 10.0  # seconds before the same refusal is logged again


@dataclass(frozen=True, slots=True)
class Place:
    """Where listeners bind, how HTTP is limited, and whose X-Forwarded headers are believed."""

    host: str
    http_limits: HttpLimits
    trusted_proxies: tuple[Network, ...] = ()


class LiveTunnel:
    """The sessions of one tunnel and the listeners they serve."""

    def __init__(self, grant: Grant, place: Place) -> None:
        self.grant = grant
        self.sessions: list[GatewaySession] = []
        self._place = place
        self._listeners: dict[Target, Listener] = {}
        self._accepting = True
        self._rules = Rules(self.candidates, self._max_connections, self._report_refusal)
        self._turn = itertools.count()
        self._reported: dict[tuple[Target, ErrorCode], float] = {}

    def __str__(self) -> str:
        return f"{self.grant.customer}/{self.grant.tunnel}"

    @property
    def live_sessions(self) -> list[GatewaySession]:
        """The sessions that take new streams."""
        return [session for session in self.sessions if session.usable]

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

    def apply(self, grant: Grant) -> None:
        """Take a grant: open and close listeners to match, tell the clients what they have not been told.

        Answers of the portal may come out of order: one that is older than what is known changes nothing.
        """
        if grant.revision > self.grant.revision:
            logger.info("%s: changed, now with ports %s", self, sorted(grant.tcp_ports) or "none")
        if grant.revision >= self.grant.revision:
            self.grant = grant
        self.open_listeners()
        for session in self.sessions:
            session.tell(self.grant)

    def open_listeners(self) -> None:
        """Bind what is granted and not yet bound, close what is granted no more.

        A port that can't be bound is one line in the log and tried again with the next change or renewal.
        """
        wanted = {Target(port): listen_port for port, listen_port in self.grant.tcp_ports.items()}
        http = Target(HTTP_SERVICE_PORT, "*")
        wanted[http] = self.grant.http_port
        for target in [target for target in self._listeners if target not in wanted]:
            self._listeners.pop(target).close()
        for target, port in wanted.items():
            listener = self._listeners.get(target)
            if listener is not None and port not in (0, listener.port):
                self._listeners.pop(target).close()
                listener = None
            if listener is None and self._accepting:
                self._open_listener(target, port, is_http=target is http)

    def _open_listener(self, target: Target, port: int, *, is_http: bool) -> None:
        host = self._place.host
        try:
            if is_http:
                connection = self._make_http_connection
                listener: Listener = HttpListener(host, port, target, self._rules, connection=connection)
            else:
                listener = TcpListener(host, port, target, self._rules)
        except OSError as error:
            logger.error(
                "%s: can't listen on %s:%d for %s (%s); free that port or give the tunnel another one",
                self, host, port, "HTTP" if is_http else target, error.strerror,
            )  # fmt: skip
            return
        self._listeners[target] = listener

    def stop_accepting(self) -> None:
        """Close the listeners for good; connections that are open go on."""
        self._accepting = False
        for listener in self._listeners.values():
            listener.stop_accepting()

    def finish(self) -> list[Listener]:
        """Close the listeners; return them with what connections still have last bytes to write."""
        listeners = list(self._listeners.values())
        self._listeners.clear()
        for listener in listeners:
            listener.finish()
        return listeners

    def _max_connections(self) -> int:
        """Return how many connections a listener may hold: twice what the sessions may carry.

        A connection of HTTP needs no stream while it is idle, one that writes its last bytes has none any more. Without
        a bound one tunnel's could take every descriptor of the process.
        """
        return 2 * self.grant.max_streams * max(1, len(self.live_sessions))

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
        now = monotonic()
        if now - self._reported.get((target, code), -REPEAT_AFTER) >= REPEAT_AFTER:
            self._reported[(target, code)] = now
            logger.warning("%s %s: connections are reset: %s (%s)", self, target, reason, code.name)
