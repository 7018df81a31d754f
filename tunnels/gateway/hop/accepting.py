"""Where a gateway takes connections from the others: a handshake, then the connection is its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

from ...bridge import reset_socket
from ..sockets import AcceptLoop
from .wire import (
    MAC_SIZE,
    MAX_HEADER,
    Answer,
    HopInvalid,
    Request,
    check_request,
    make_greeting,
    pack_answer,
    receive_exactly,
)

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT: Final = 5.0  # seconds
MAX_HANDSHAKES: Final = 2048  # at a time
MAX_HANDSHAKES_OF_ADDRESS: Final = 512  # of these with one other end
REPEAT_AFTER: Final = 10.0  # seconds before the same trouble is logged again

# Takes the connection and writes *taken* into it, or says why not.
Take = Callable[[Request, socket.socket, bytes], tuple[Answer, str]]


class HopListener(AcceptLoop):
    """The socket of the gateway *name* for the others, which know the *secret*.

    *take* is given what was asked for, the socket and the bytes that say it was taken, to write first; it returns
    TAKEN or why not. A connection that came this way is never passed on, so none goes in circles.
    """

    def __init__(self, host: str, port: int, name: str, secret: str, take: Take) -> None:
        """Bind; raises OSError."""
        self._name = name
        self._secret = secret.encode()
        self._take = take
        self._handshakes: set[asyncio.Task[None]] = set()
        self._handshakes_of: Counter[str] = Counter()
        self._logged_at = -REPEAT_AFTER
        super().__init__(host, port)

    async def stop(self) -> None:
        """Close the socket, and the handshakes that are under way."""
        self.stop_accepting()
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _accepted(self, sock: socket.socket, source: str) -> None:
        address = source.rpartition(":")[0]
        if len(self._handshakes) >= MAX_HANDSHAKES or self._handshakes_of[address] >= MAX_HANDSHAKES_OF_ADDRESS:
            reset_socket(sock)
            return
        self._handshakes_of[address] += 1
        task = self._loop.create_task(self._serve(sock, source))
        self._handshakes.add(task)
        task.add_done_callback(partial(self._handshake_done, address))

    def _handshake_done(self, address: str, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        self._handshakes_of[address] -= 1
        if not self._handshakes_of[address]:
            del self._handshakes_of[address]

    async def _serve(self, sock: socket.socket, peer: str) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                nonce, header = await self._read_request(sock)
        except (TimeoutError, OSError, HopInvalid) as error:
            reset_socket(sock)
            self._report(peer, error)
        except BaseException:
            reset_socket(sock)
            raise
        else:
            self._answer(sock, nonce, header, peer)

    async def _read_request(self, sock: socket.socket) -> tuple[bytes, bytes]:
        greeting, nonce = make_greeting()
        await self._loop.sock_sendall(sock, greeting)
        size = int.from_bytes(await receive_exactly(sock, 2), "big")
        if not 0 < size <= MAX_HEADER:
            raise HopInvalid("its header is too long")
        header = await receive_exactly(sock, size)
        check_request(self._secret, nonce, header, await receive_exactly(sock, MAC_SIZE))
        return nonce, header

    def _answer(self, sock: socket.socket, nonce: bytes, header: bytes, peer: str) -> None:
        try:
            request, gateway = Request.unpack(header)
            if gateway != self._name:  # its address has changed hands, or somebody passes on what was for another
                answer, reason = Answer.MISTAKEN, f"this is the gateway {self._name}"
            else:
                answer, reason = self._take(request, sock, pack_answer(self._secret, nonce, header, Answer.TAKEN))
        except HopInvalid as error:
            self._report(peer, error)
            reset_socket(sock)
            return
        if answer is not Answer.TAKEN:
            try:
                sock.send(pack_answer(self._secret, nonce, header, answer, reason))
            except OSError as error:
                self._report(peer, error)
            sock.close()

    def _report(self, peer: str, error: Exception) -> None:
        """Log who failed, not more than every REPEAT_AFTER seconds: anybody in the cluster may knock."""
        now = monotonic()
        if now - self._logged_at >= REPEAT_AFTER:
            self._logged_at = now
            reason = str(error) or f"no request within {HANDSHAKE_TIMEOUT:g} s"
            logger.warning("a hop from %s was refused: %s", peer, reason)
