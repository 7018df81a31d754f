"""Slow down whoever keeps trying wrong tokens, per address; tokens that were good lately are not held up."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil
from time import monotonic
from typing import Final

MAX_SOURCES: Final = 10_000
MAX_TOKENS: Final = 10_000
TRIES_AT_ONCE: Final = 10  # of one source; the others wait for their turn
TURN_TIMEOUT: Final = 10.0  # seconds
IPV6_PREFIX: Final = 64  # bits; whoever has one IPv6 address has a network of so many


class Throttle:
    """Count failures per source, an IPv4 address or an IPv6 network; one with too many waits until the window is over.

    Arguments: *failures* allowed within *window* seconds; *clock* in seconds. It remembers the MAX_SOURCES latest
    sources, so that its memory does not grow with the number of attackers.
    """

    def __init__(self, failures: int = 10, window: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._failures = failures
        self._window = window
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # source -> failures, since
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return len(self._counts)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait until fewer than TRIES_AT_ONCE tries of *address* are under way; ask :meth:`wait_for` behind it.

        Else as many tries as are made at once would pass before the first one has failed. Raises TimeoutError where
        that takes longer than TURN_TIMEOUT.
        """
        source = source_of(address)
        queue = self._queues.setdefault(source, _Queue())
        queue.length += 1
        try:
            await asyncio.wait_for(queue.places.acquire(), TURN_TIMEOUT)
            try:
                yield
            finally:
                queue.places.release()
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[source]

    def wait_for(self, address: str) -> int:
        """Return how many seconds *address* must wait before its next try; 0: it may try now."""
        count, since = self._counts.get(source_of(address), (0, 0.0))
        left = since + self._window - self._clock()
        return ceil(left) if count >= self._failures and left > 0 else 0

    def note_failure(self, address: str) -> None:
        """Count one wrong token from *address*."""
        source = source_of(address)
        now = self._clock()
        count, since = self._counts.pop(source, (0, now))
        if now - since >= self._window:
            count, since = 0, now
        self._counts[source] = (count + 1, since)
        if len(self._counts) > MAX_SOURCES:
            self._counts.popitem(last=False)

    def note_success(self, address: str) -> None:
        """Forget the failures of *address*: somebody there holds a token."""
        self._counts.pop(source_of(address), None)


class KnownTokens:
    """The MAX_TOKENS tokens that were accepted last, as SHA-256 digests.

    Many clients may share an address with a stranger who tries tokens: behind a NAT, or an ingress that is not trusted.
    """

    def __init__(self) -> None:
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, token: str) -> bool:
        return _digest(token) in self._digests

    def add(self, token: str) -> None:
        digest = _digest(token)
        self._digests[digest] = None
        self._digests.move_to_end(digest)
        if len(self._digests) > MAX_TOKENS:
            self._digests.popitem(last=False)

    def discard(self, token: str) -> None:
        self._digests.pop(_digest(token), None)


def source_of(address: str) -> str:
    """Return what *address* counts as: itself, or the /64 network of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((int(parsed), IPV6_PREFIX), strict=False))
    return address


@dataclass(slots=True)
class _Queue:
    """The tries of one source that are under way or wait; there while there are any."""

    length: int = 0
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TRIES_AT_ONCE))


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
