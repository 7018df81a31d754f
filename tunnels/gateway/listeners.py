"""The sockets in the cluster: one for each TCP port of a tunnel, one for its HTTP.

A listener is there while its tunnel has a session, so that without one an application is refused at once instead of
waiting for nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..bridge import SocketBridge, reset_socket
from ..endpoint import Endpoint
from ..protocol import ErrorCode, StreamRefused, Target
from .http import HttpConnection

logger = logging.getLogger(__name__)

BACKLOG: Final = 1024
ACCEPTS_PER_WAKE: Final = 64
ACCEPT_PAUSE: Final = 1.0  # seconds without accepting when the process has no descriptor left
FINISH_TIMEOUT: Final = 60.0  # seconds for the last bytes of connections whose tunnel has gone

MakeHttpConnection = Callable[[str, Callable[[], None]], HttpConnection]
Candidates = Callable[[], Iterable[Endpoint]]
ReportRefusal = Callable[[Target, ErrorCode, str], None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a listener asks of its tunnel.

    *candidates* gives the endpoints to try, in the order of preference; *limit*, how many connections the listener may
    hold now; *report_refusal* is told why a connection had to be reset.
    """

    candidates: Candidates
    limit: Callable[[], int]
    report_refusal: ReportRefusal


class Listener(ABC):
    """A bound socket and the connections it took; closing it ends both."""

    def __init__(self, host: str, port: int, target: Target, rules: Rules) -> None:
        """Bind; raises OSError where the port is taken or not ours."""
        self._target = target
        self._rules = rules
        self._loop = asyncio.get_running_loop()
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._resume: asyncio.TimerHandle | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._socket.fileno(), self._accept_all)

    def stop_accepting(self) -> None:
        """Close the socket; connections it took go on."""
        if self._resume is not None:
            self._resume.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def finish(self) -> None:
        """Close the socket; connections that have only last bytes to write have FINISH_TIMEOUT for them.

        For a tunnel whose last session has ended: its end has reset the connections that wanted more than that.
        """
        self.stop_accepting()
        if self.connections and self._cut is None:
            self._cut = self._loop.call_later(FINISH_TIMEOUT, self._reset_connections)

    def close(self) -> None:
        """Close the socket and reset the connections."""
        self.stop_accepting()
        if self._cut is not None:
            self._cut.cancel()
        self._reset_connections()

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many connections it holds."""

    @abstractmethod
    def _accept(self, sock: socket.socket, source: str) -> None:
        """Take one connection; *source* is its address as ``host:port``."""

    @abstractmethod
    def _reset_connections(self) -> None: ...

    def _accept_all(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            sock.setblocking(False)
            limit = self._rules.limit()
            if self.connections >= limit:
                self._rules.report_refusal(self._target, ErrorCode.LIMIT, f"the port has {limit} connections already")
                reset_socket(sock)
                continue
            self._accept(sock, f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}")

    def _pause_accepting(self, error: OSError) -> None:
        """Wait a little: the socket stays readable, and the loop would do nothing else than fail to accept."""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            logger.error("no file descriptor left for port %d; raise the limit of open files (ulimit -n)", self.port)
        else:
            logger.error("port %d takes no connection: %s", self.port, error.strerror)
        self._loop.remove_reader(self._socket.fileno())
        self._resume = self._loop.call_later(
            ACCEPT_PAUSE, self._loop.add_reader, self._socket.fileno(), self._accept_all
        )


class TcpListener(Listener):
    """One TCP port of a tunnel: every connection becomes a stream of one of its sessions."""

    def __init__(self, host: str, port: int, target: Target, rules: Rules) -> None:
        self._bridges: set[ListenerBridge] = set()
        super().__init__(host, port, target, rules)

    @property
    def connections(self) -> int:
        return len(self._bridges)

    def _accept(self, sock: socket.socket, source: str) -> None:
        refusal = StreamRefused(ErrorCode.LOST, "no client is connected")
        for endpoint in self._rules.candidates():
            bridge = ListenerBridge(endpoint, self._rules.report_refusal, self._bridges.discard)
            try:
                bridge.bind(endpoint.open_stream(self._target, source, bridge))
            except StreamRefused as error:
                refusal = error
                continue
            self._bridges.add(bridge)
            bridge.connect(sock)
            return
        self._rules.report_refusal(self._target, refusal.code, refusal.reason)
        reset_socket(sock)

    def _reset_connections(self) -> None:
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
    def connections(self) -> int:
        return len(self._connections)

    def _accept(self, sock: socket.socket, source: str) -> None:
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
        for connection in list(self._connections):
            connection.drain()

    def _reset_connections(self) -> None:
        for connection in list(self._connections):
            connection.abort()


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
