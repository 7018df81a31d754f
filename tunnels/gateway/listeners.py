"""The sockets in the cluster: one for each TCP port of a tunnel, one for its HTTP.

A listener is there while its tunnel has a session, here or on another gateway, so that without one an application is
refused at once instead of waiting for nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..bridge import SocketBridge, reset_socket
from ..endpoint import Endpoint
from ..protocol import ErrorCode, StreamRefused, Target
from .hop import Passage
from .http import HttpConnection
from .sockets import AcceptLoop

logger = logging.getLogger(__name__)

FINISH_TIMEOUT: Final = 60.0  # seconds for the last bytes of connections whose tunnel has gone

MakeHttpConnection = Callable[[str, Callable[[], None]], HttpConnection]
Candidates = Callable[[], Iterable[Endpoint]]
ReportRefusal = Callable[[Target, ErrorCode, str], None]
Refuse = Callable[[socket.socket, str, StreamRefused], None]
PassOn = Callable[[Target, socket.socket, str, Refuse, Callable[[Passage], None]], Passage | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a listener asks of its tunnel.

    *candidates* gives the endpoints to try, in the order of preference; *refuse_more* says why the tunnel may have no
    further connection, None where it may, and *refuse_more_here* the same of those over sessions of this gateway;
    *report_refusal* is told why a connection had to be reset; *pass_on* begins to bring a connection that no session
    here takes to another gateway, or returns None where there is none to ask.
    """

    candidates: Candidates
    refuse_more: Callable[[], StreamRefused | None]
    refuse_more_here: Callable[[], StreamRefused | None]
    report_refusal: ReportRefusal
    pass_on: PassOn


class Listener(AcceptLoop):
    """A bound socket and the connections it took; closing it ends both."""

    def __init__(self, host: str, port: int, target: Target, rules: Rules) -> None:
        """Bind; raises OSError where the port is taken or not ours."""
        self._target = target
        self._rules = rules
        self._passages: set[Passage] = set()
        self._cut: asyncio.TimerHandle | None = None
        super().__init__(host, port)

    def finish(self) -> None:
        """Close the socket; connections that have only last bytes to write have FINISH_TIMEOUT for them.

        For a tunnel whose last session has ended: its end has reset the connections that wanted more than that. Those
        that were passed on end as the other gateway ends them.
        """
        self.stop_accepting()
        self.drain_connections()
        if self.connections and self._cut is None:
            self._cut = self._loop.call_later(FINISH_TIMEOUT, self._reset_own)

    def close(self) -> None:
        """Close the socket and reset the connections."""
        self.stop_accepting()
        if self._cut is not None:
            self._cut.cancel()
        self._reset_own()
        for passage in list(self._passages):
            passage.abort()

    @property
    def connections(self) -> int:
        """How many connections it holds."""
        return self.own_connections + len(self._passages)

    def take(self, sock: socket.socket, source: str, greeting: bytes = b"") -> StreamRefused | None:
        """Bring a connection to a session of this gateway, or say why that can't be; then it is still the caller's.

        Arguments: the application's *source* address; a *greeting* to write before anything else.
        """
        return self._rules.refuse_more_here() or self._take(sock, source, greeting)

    def drain_connections(self) -> None:
        """End connections that carry nothing now: the next one finds another session."""

    @property
    @abstractmethod
    def own_connections(self) -> int:
        """How many connections go over sessions of this gateway."""

    @abstractmethod
    def _take(self, sock: socket.socket, source: str, greeting: bytes) -> StreamRefused | None: ...

    @abstractmethod
    def _refuse(self, sock: socket.socket, source: str, refusal: StreamRefused) -> None:
        """End a connection that no session takes."""

    @abstractmethod
    def _reset_own(self) -> None:
        """Reset the connections that go over sessions of this gateway."""

    def _accepted(self, sock: socket.socket, source: str) -> None:
        refusal = self._rules.refuse_more()
        if refusal is not None:
            self._rules.report_refusal(self._target, refusal.code, refusal.reason)
            reset_socket(sock)
            return
        refusal = self._take(sock, source, b"")
        if refusal is not None:
            passage = self._rules.pass_on(self._target, sock, source, self._refuse, self._passages.discard)
            if passage is not None:
                self._passages.add(passage)
            else:
                self._refuse(sock, source, refusal)


class TcpListener(Listener):
    """One TCP port of a tunnel: every connection becomes a stream of one of its sessions."""

    def __init__(self, host: str, port: int, target: Target, rules: Rules) -> None:
        self._bridges: set[ListenerBridge] = set()
        super().__init__(host, port, target, rules)

    @property
    def own_connections(self) -> int:
        return len(self._bridges)

    def _take(self, sock: socket.socket, source: str, greeting: bytes) -> StreamRefused | None:
        refusal = StreamRefused(ErrorCode.LOST, "no client is connected")
        for endpoint in self._rules.candidates():
            bridge = ListenerBridge(endpoint, self._rules.report_refusal, self._bridges.discard)
            try:
                bridge.bind(endpoint.open_stream(self._target, source, bridge))
            except StreamRefused as error:
                refusal = error
                continue
            self._bridges.add(bridge)
            if greeting and not _greet(sock, greeting):
                bridge.give_up(ErrorCode.CANCELLED, "connection lost")
            bridge.connect(sock)
            return None
        return refusal

    def _refuse(self, sock: socket.socket, source: str, refusal: StreamRefused) -> None:
        self._rules.report_refusal(self._target, refusal.code, refusal.reason)
        reset_socket(sock)

    def _reset_own(self) -> None:
        for bridge in list(self._bridges):
            bridge.give_up(ErrorCode.CANCELLED, "the port was closed")


class ListenerBridge(SocketBridge):
    """A bridge that tells why an upstream was not reached."""

    def __init__(
        self, endpoint: Endpoint, report_refusal: ReportRefusal, on_end: Callable[[ListenerBridge], None]
    ) -> None:
        super().__init__(endpoint, partial(on_end, self))
        self._report_refusal = report_refusal

    def stream_rejected(self, code: ErrorCode, reason: str) -> None:
        self._report_refusal(self.stream.target, code, reason)
        super().stream_rejected(code, reason)


class HttpListener(Listener):
    """The HTTP port of a tunnel; *connection* makes the protocol of each connection from its address and its end."""

    def __init__(self, host: str, port: int, target: Target, rules: Rules, *, connection: MakeHttpConnection) -> None:
        self._make_connection = connection
        self._connections: set[HttpConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        super().__init__(host, port, target, rules)

    @property
    def own_connections(self) -> int:
        return len(self._connections)

    def _take(self, sock: socket.socket, source: str, greeting: bytes) -> StreamRefused | None:
        if next(iter(self._rules.candidates()), None) is None:
            return StreamRefused(ErrorCode.LOST, "no client is connected")
        if greeting and not _greet(sock, greeting):
            reset_socket(sock)
        else:
            self._serve(sock, source)
        return None

    def _refuse(self, sock: socket.socket, source: str, refusal: StreamRefused) -> None:
        self._serve(sock, source)  # it answers each request with a page that says so

    def _serve(self, sock: socket.socket, source: str) -> None:
        connection = self._make_connection(source, lambda: self._connections.discard(connection))
        self._connections.add(connection)
        task = self._loop.create_task(self._connect(connection, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: HttpConnection, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as error:
            self._connections.discard(connection)
            sock.close()
            logger.warning("port %d: a connection was lost as it was taken: %s", self.port, error.strerror or error)

    def stop_accepting(self) -> None:
        super().stop_accepting()
        self.drain_connections()

    def drain_connections(self) -> None:
        for connection in list(self._connections):
            connection.drain()

    def _reset_own(self) -> None:
        for connection in list(self._connections):
            connection.abort()


def _greet(sock: socket.socket, greeting: bytes) -> bool:
    """Write a few bytes into an empty socket, and return whether it took them."""
    try:
        return sock.send(greeting) == len(greeting)
    except OSError:
        return False
