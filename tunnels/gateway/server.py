"""Daphne, with one thing more: after its routing and our authorization it gives the socket of a WebSocket away.

Daphne puts inbound messages on an unbounded queue and has no back-pressure; the native transport on the same socket has
neither fault and costs a tenth. Import this module before anything that imports Twisted's reactor: the event loop is
chosen here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

import uvloop

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

from daphne import http_protocol  # noqa: E402
from daphne.server import Server, twisted_loop  # noqa: E402 - Daphne makes its loop when imported
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol  # noqa: E402
from twisted.internet.error import CannotListenError  # noqa: E402

from ..descriptors import raise_file_limit  # noqa: E402
from ..endpoint import Endpoint  # noqa: E402
from ..transport import MAX_MESSAGE  # noqa: E402
from ..transport.upgrade import accept_native  # noqa: E402
from .admission import HANDOVER, Scope, gateway_headers  # noqa: E402
from .gateway import Gateway  # noqa: E402
from .intake import BoundedRequest  # noqa: E402
from .ledger import describe  # noqa: E402
from .options import StartFailed  # noqa: E402

logger = logging.getLogger(__name__)
logging.getLogger("daphne").setLevel(logging.WARNING)  # what it does at its start is said here in our words

LISTEN_ADVICE: Final = {
    errno.EADDRINUSE: "Free the port, or choose another with --port or MOORLINE_PORT.",
    errno.EADDRNOTAVAIL: "This machine has no such address; choose another with --bind.",
    errno.EACCES: "A port below 1024 needs more rights; choose another with --port or MOORLINE_PORT.",
}
UPGRADE_TIMEOUT: Final = 10.0  # seconds
REQUESTS_TIMEOUT: Final = 5.0  # seconds that HTTP requests under way may still take when the server stops


class TunnelProtocol(WebSocketProtocol):  # type: ignore[misc]  # Daphne has no types
    """A WebSocket of Daphne's that can be handed over before its upgrade is answered.

    This is the scope extension :class:`tunnels.gateway.admission.Handover`.
    """

    taken = False

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - the name is Twisted's
        """Take bytes of the client; those that come while its upgrade is being decided wait, up to a bound."""
        if self.state != self.STATE_CONNECTING or not hasattr(self, "handshake_deferred"):
            super().dataReceived(data)
        elif len(self.data) + len(data) <= MAX_MESSAGE:
            self.data += data  # Autobahn would take them for another request
        else:
            self.dropConnection(abort=True)

    async def accept(self, endpoint: Endpoint, subprotocol: str) -> None:
        """Run *endpoint* on the native transport, on this connection's own socket.

        Raises ConnectionError where the client has gone meanwhile.
        """
        transport = self.transport
        if self.state != self.STATE_CONNECTING or not transport.connected:
            raise ConnectionResetError("the client has gone")
        transport.pauseProducing()
        sock = transport.getHandle().dup()
        request = self._request_head() + self.data
        self._let_go()
        headers = {"Sec-WebSocket-Protocol": subprotocol, **gateway_headers(endpoint)}
        await accept_native(sock, request, endpoint, headers=headers, timeout=UPGRADE_TIMEOUT)

    def refuse(self, response: bytes) -> None:
        """Write *response* in place of the upgrade and close."""
        if self.state == self.STATE_CONNECTING:
            self.taken = self.muted = True
            self.transport.write(response)
            self.transport.loseConnection()

    def check_timeouts(self) -> None:
        if not self.taken:
            super().check_timeouts()

    def _request_head(self) -> bytes:
        query = b"?" + self._raw_query_string if self._raw_query_string else b""
        lines = [b"GET " + self.path + query + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.clean_headers]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _let_go(self) -> None:
        """Have Twisted and Autobahn end their part without touching the connection itself.

        Twisted closes its own descriptor; without the shutdown that would go with it, ours lives on. What the two
        held for this connection is freed then.
        """
        self.taken = self.muted = True
        self.transport._shouldShutdown = False
        self.transport.loseConnection()
        del self.handshake_deferred


WebSocketFactory.protocol = TunnelProtocol
http_protocol.WebRequest = BoundedRequest


class TunnelServer(Server):  # type: ignore[misc]
    """Daphne's server; with *native* it offers the hand-over to the application.

    Requests may have a body below *body_paths*, nowhere else.
    """

    def __init__(
        self,
        application: Callable[..., Any],
        *,
        host: str,
        port: int,
        native: bool = True,
        body_paths: Sequence[str] = (),
    ) -> None:
        endpoint = f"tcp:port={port}:interface={host.replace(':', chr(92) + ':')}:backlog=1024"
        super().__init__(
            application,
            endpoints=[endpoint],
            signal_handlers=False,
            websocket_timeout=-1,  # Daphne's default ends every WebSocket after a day
            websocket_handshake_timeout=int(UPGRADE_TIMEOUT),
            websocket_max_message_size=MAX_MESSAGE,
            websocket_max_frame_size=MAX_MESSAGE,
            server_name="moorline",
        )
        self.failure: str | None = None
        self.port = port
        self.body_paths = tuple(path.encode() for path in body_paths)
        self._host = host
        self._native = native
        self._listening: list[Any] = []

    def create_application(self, protocol: Any, scope: Scope) -> Any:
        if self._native and scope["type"] == "websocket":
            scope["extensions"] = {HANDOVER: protocol}
        return super().create_application(protocol, scope)

    def listen_success(self, port: Any) -> None:
        self._listening.append(port)
        self.port = port.getHost().port
        logger.info("listening on %s:%d", self._host, self.port)

    def listen_error(self, failure: Any) -> None:
        cause = failure.value.socketError if failure.check(CannotListenError) else failure.value
        advice = LISTEN_ADVICE.get(getattr(cause, "errno", 0), "Choose another address with --bind or --port.")
        reason = getattr(cause, "strerror", None) or str(cause).rstrip(".")
        self.failure = f"can't listen on {self._host} port {self.port}: {reason}. {advice}"
        self.stop()

    async def stop_listening(self) -> None:
        """Take no new connections; wait a little for the HTTP requests that are under way."""
        listening, self._listening = self._listening, []
        for port in listening:
            port.stopListening()
        requests = [
            details["application_instance"]
            for protocol, details in self.connections.items()
            if "application_instance" in details and not isinstance(protocol, WebSocketProtocol)
        ]
        if requests:
            await asyncio.wait(requests, timeout=REQUESTS_TIMEOUT)

    def kill_all_applications(self) -> Any:
        """Cancel what runs; Daphne's own fails over a connection whose application has returned."""
        running = {p: details for p, details in self.connections.items() if "application_instance" in details}
        self.connections: dict[Any, dict[str, Any]] = running
        return super().kill_all_applications()


def run_server(server: TunnelServer, gateway: Gateway | None, *, drain_timeout: float) -> str | None:
    """Run until SIGTERM or SIGINT, drain for up to *drain_timeout* seconds, stop; a second signal stops at once.

    Returns what went wrong in a sentence, or None.
    """
    raise_file_limit()
    loop = twisted_loop
    stopping: asyncio.Task[None] | None = None

    async def stop_calmly() -> None:
        try:
            if gateway is None:
                await server.stop_listening()
            else:
                await asyncio.gather(server.stop_listening(), gateway.drain(drain_timeout))
                await gateway.stop()
        finally:
            server.stop()

    def on_signal() -> None:
        nonlocal stopping
        if stopping is None:
            logger.info("stopping")
            stopping = loop.create_task(stop_calmly())
        else:
            logger.warning("stopping at once")
            stopping.cancel()

    try:
        if gateway is not None:
            loop.run_until_complete(gateway.start())
    except StartFailed as error:
        return f"the gateway could not start: {error}"
    except Exception as error:
        advice = "Is the database there? Run manage.py migrate if it is new or Moorline was updated."
        return f"the gateway could not start: {describe(error)}. {advice}"
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    with contextlib.suppress(SystemExit):
        server.run()
    return server.failure
