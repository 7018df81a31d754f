"""Reach other gateways and ask them to take connections, so that one that is gone holds up no more than its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from ...bridge import reset_socket
from ..directory import Holder
from .wire import GREETING_SIZE, Answer, HopInvalid, Request, pack_request, read_answer, read_greeting, receive_exactly

logger = logging.getLogger(__name__)

DIAL_TIMEOUT: Final = 3.0  # seconds for all of it, with the wait for a turn; a pod that is gone answers nothing
MAX_DIALS: Final = 256  # at a time to one gateway; it takes twice as many from one address
MAX_DIALS_OF_TUNNEL: Final = 32  # of these for one tunnel
REST: Final = 5.0  # seconds for which a gateway that did not answer is tried last, by one dial at a time


class HopFailed(Exception):
    """The other gateway did not take the connection: its *answer*, None where it gave none."""

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.answer = answer


class Turns:
    """No more than *limit* at a time of each key; further ones wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._users: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Wait until it is one's turn, for as long as the caller lets it."""
        semaphore, users = self._users.get(key) or (asyncio.Semaphore(self._limit), 0)
        self._users[key] = semaphore, users + 1
        try:
            async with semaphore:
                yield
        finally:
            _, users = self._users.pop(key)
            if users > 1:
                self._users[key] = semaphore, users - 1


class Dialler:
    """Dials to all other gateways, which know the *secret*; each has its share, and so has each tunnel of it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._turns = Turns(MAX_DIALS)
        self._turns_of_tunnel = Turns(MAX_DIALS_OF_TUNNEL)
        self._turns_of_silent = Turns(1)
        self._silent: dict[Hashable, float] = {}  # gateways that did not answer lately, and until when they rest
        self._turn = 0

    def in_order(self, holders: Sequence[Holder]) -> Iterator[Holder]:
        """Yield the gateways to ask: in turn, those last that did not answer lately."""
        self._turn += 1
        start = self._turn % len(holders) if holders else 0
        yield from sorted([*holders[start:], *holders[:start]], key=lambda holder: self._rests(_key(holder)))

    async def dial(self, holder: Holder, request: Request, timeout: float) -> socket.socket:
        """Return the socket by which *holder* has taken a connection.

        It has *timeout* seconds for that, and no more than DIAL_TIMEOUT. Raises HopFailed.
        """
        key = _key(holder)
        try:
            async with (
                asyncio.timeout(min(timeout, DIAL_TIMEOUT)),
                self._turns_of_tunnel.turn((request.tunnel_id, key)),
                self._turns.turn(key),
            ):
                sock = await self._dial(holder, request)
        except TimeoutError:
            failure = HopFailed(f"{holder.gateway} does not answer at {holder.address}:{holder.hop_port}")
            self._note_silence(key, failure)
            raise failure from None
        except HopFailed as failure:
            if failure.answer is None:
                self._note_silence(key, failure)
            else:
                self._silent.pop(key, None)
            raise
        self._silent.pop(key, None)
        return sock

    async def _dial(self, holder: Holder, request: Request) -> socket.socket:
        key = _key(holder)
        if self._rests(key):
            async with self._turns_of_silent.turn(key):
                if self._rests(key):
                    return await dial(holder, request, self._secret)
        return await dial(holder, request, self._secret)

    def _rests(self, key: Hashable) -> bool:
        return self._silent.get(key, 0.0) > monotonic()

    def _note_silence(self, key: Hashable, failure: HopFailed) -> None:
        if not self._rests(key):
            logger.warning("a connection could not be passed on: %s", failure)
        now = monotonic()
        self._silent = {other: until for other, until in self._silent.items() if until > now}
        self._silent[key] = now + REST


def _key(holder: Holder) -> Hashable:
    return holder.gateway, holder.address, holder.hop_port


async def dial(holder: Holder, request: Request, secret: bytes) -> socket.socket:
    """Return the socket by which *holder* has taken the connection; its bytes may follow.

    How long that may take is the caller's to say. Raises HopFailed.
    """
    family = socket.AF_INET6 if ":" in holder.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        answer, reason = await _ask(sock, holder, request, secret)
    except (OSError, HopInvalid) as error:
        reset_socket(sock)
        reason = getattr(error, "strerror", None) or str(error)
        raise HopFailed(f"{holder.gateway} at {holder.address}:{holder.hop_port}: {reason}") from None
    except BaseException:
        reset_socket(sock)
        raise
    if answer is not Answer.TAKEN:
        sock.close()
        raise HopFailed(f"{holder.gateway} did not take it: {reason or answer.name}", answer)
    return sock


async def _ask(sock: socket.socket, holder: Holder, request: Request, secret: bytes) -> tuple[Answer, str]:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (holder.address, holder.hop_port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    nonce = read_greeting(await receive_exactly(sock, GREETING_SIZE))
    header = request.pack(holder.gateway)
    await loop.sock_sendall(sock, pack_request(secret, nonce, header))
    return await read_answer(sock, secret, nonce, header)
