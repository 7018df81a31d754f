"""HTTP requests as Daphne takes them in, bounded: nobody has shown a token or a password yet.

Twisted stores a body before anybody looks at the request, in a file if it is long, however long it is.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from daphne.http_protocol import WebRequest

from .admission import render_response

MAX_BODY: Final = 2_621_440  # bytes, where there may be a body at all; Django takes no more of a form either
LINGER_TIMEOUT: Final = 2.0  # seconds in which a client may read why, while it still sends

_TEXT: Final = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))


class BoundedRequest(WebRequest):  # type: ignore[misc]  # Daphne has no types
    """A request whose body is refused before it is stored where it is too long, or where none is expected.

    The server's *body_paths* say below which paths a body may be.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._room = 0  # bytes that the body may still have
        self._refused = False
        # What is in a form is the application's business; Twisted need not read it first.
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - the name is Twisted's
        """Take the headers as complete; *length* of the body in bytes, None where it comes in chunks."""
        # Daphne would believe anybody who says below which path the application lives.
        self.requestHeaders.removeHeader(b"Daphne-Root-Path")
        self._room = MAX_BODY if self.channel._path.startswith(self.server.body_paths) else 0
        # Without room nothing is ever stored, so no file is needed for it.
        super().gotLength(length if self._room else 0)
        if length is not None and length > self._room:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - the name is Twisted's
        """Store a part of the body."""
        self._room -= len(data)
        if self._room < 0:
            self._refuse_body()
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 - the name is Twisted's
        """Take the request as complete."""
        if self._refused:
            self.channel.transport.loseConnection()
            return
        super().requestReceived(command, path, version)

    def process(self) -> Any:
        """Hand the request to the application, or to a WebSocket."""
        offered = b"".join(self.requestHeaders.getRawHeaders(b"Sec-WebSocket-Protocol", ()))
        if not offered.isascii():  # RFC 6455 section 4.1: a subprotocol is a token
            self.basic_error(400, b"Bad Request", "Invalid characters in Sec-WebSocket-Protocol")
            return None
        return super().process()

    def _refuse_body(self) -> None:
        """Answer 413 and close; what still comes is read for a while, and dropped (RFC 9112 section 9.6)."""
        if self._refused:
            return
        self._refused = True
        self._room = -1
        self.requestHeaders.removeHeader(b"Expect")  # no "100 Continue" after the answer
        self.content.truncate(0)
        transport = self.channel.transport
        transport.write(render_response(413, _TEXT, b"The request has a body that is not taken here.\n"))
        transport.loseWriteConnection()
        asyncio.get_running_loop().call_later(LINGER_TIMEOUT, transport.abortConnection)
