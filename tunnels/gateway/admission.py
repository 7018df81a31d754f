"""The doors a client comes through: how a WebSocket is taken or refused, on each kind of ASGI server.

With the hand-over (our Daphne server) the gateway gets the socket itself and answers on the HTTP level. Without it an
ASGI server holds the WebSocket; a refusal is an HTTP answer where the server offers that, and otherwise a close code
right after the upgrade (SPEC.md section 2).
"""

from __future__ import annotations

import http
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final, Protocol

from ..endpoint import Endpoint
from ..protocol import SUBPROTOCOL
from ..transport import GATEWAY_HEADER
from ..transport.asgi import AsgiReceive, AsgiSend, AsgiTransport
from .directory import Refused

Scope = MutableMapping[str, Any]
Headers = Sequence[tuple[str, str]]

HANDOVER: Final = "moorline.handover"  # the scope extension that our Daphne server offers
REFUSAL_CLOSE_BASE: Final = 4000  # the close code of a refusal is this plus the HTTP status


class Handover(Protocol):
    """The scope extension: the server gives the socket away."""

    async def accept(self, endpoint: Endpoint, subprotocol: str) -> None:
        """Complete the upgrade and run *endpoint* on the socket itself; returns once it is handed over."""
        ...

    def refuse(self, response: bytes) -> None:
        """Write a raw HTTP response and close."""
        ...


class Door:
    """One WebSocket that waits to be taken or refused."""

    def __init__(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        extensions = scope.get("extensions") or {}
        self._handover: Handover | None = extensions.get(HANDOVER)
        self._can_respond = "websocket.http.response" in extensions

    async def accept(self, endpoint: Endpoint) -> None:
        """Run *endpoint* on this WebSocket.

        Returns when the socket has been handed over, or on a plain ASGI server when the session has ended.
        """
        if self._handover is not None:
            await self._handover.accept(endpoint, SUBPROTOCOL)
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in gateway_headers(endpoint).items()]
        await self._send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL, "headers": headers})
        await AsgiTransport(self._receive, self._send, endpoint).run()

    async def refuse(self, refused: Refused) -> None:
        """Say why not, as plainly as this server lets us."""
        headers = refusal_headers(refused)
        body = (refused.reason + "\n").encode()
        if self._handover is not None:
            self._handover.refuse(render_response(refused.status, headers, body))
        elif self._can_respond:
            raw = [(name.lower().encode(), value.encode()) for name, value in headers]
            await self._send({"type": "websocket.http.response.start", "status": refused.status, "headers": raw})
            await self._send({"type": "websocket.http.response.body", "body": body})
        else:
            # Before the upgrade such a server can only say 403, whatever the cause.
            offered = self._scope.get("subprotocols") or []
            subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol})
            reason = refused.reason.encode()[:120].decode("utf-8", "ignore")
            await self._send({"type": "websocket.close", "code": REFUSAL_CLOSE_BASE + refused.status, "reason": reason})


def gateway_headers(endpoint: Endpoint) -> dict[str, str]:
    """Return what tells a client, before it says HELLO, which gateway it has reached (SPEC.md section 2.1)."""
    name = endpoint.instance
    return {GATEWAY_HEADER: name} if name.isascii() and name.isprintable() else {}


def refusal_headers(refused: Refused) -> list[tuple[str, str]]:
    """Return the headers of a refusal; RFC 9110 wants a challenge with 401, an Upgrade with 426."""
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
    if refused.status == 401:
        headers.append(("WWW-Authenticate", 'Bearer realm="moorline"'))
    if refused.status == 426:
        headers += [("Upgrade", "websocket"), ("Sec-WebSocket-Protocol", SUBPROTOCOL)]
    if refused.retry_after:
        headers.append(("Retry-After", str(refused.retry_after)))
    return headers


def render_response(status: int, headers: Headers, body: bytes) -> bytes:
    """Return a whole HTTP/1.1 response that ends the connection."""
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


async def respond_plainly(send: Callable[[dict[str, Any]], Awaitable[None]], refused: Refused) -> None:
    """Answer a plain HTTP request that should have been an upgrade."""
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal_headers(refused)]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": (refused.reason + "\n").encode()})
