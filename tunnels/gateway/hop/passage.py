"""Pass connections on: find the gateway that takes one, wait while the tunnel moves, join the two sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Final, Protocol

from ...bridge import reset_socket
from ...protocol import ErrorCode, StreamRefused, Target
from ..directory import Holder
from .dialling import Dialler, HopFailed
from .splice import Splice
from .wire import Answer, Request

logger = logging.getLogger(__name__)

PARK_TIMEOUT: Final = 10.0  # seconds that a connection waits for a session while its tunnel moves to another gateway
MAX_PARKED: Final = 4096  # connections that wait so, at a time
MAX_PARKED_OF_TUNNEL: Final = 512  # of these of one tunnel
ASK_AGAIN: Final = 1.0  # seconds after which the portal is asked again who holds the tunnel of a connection that waits
REREAD_TIMEOUT: Final = 2.0  # seconds for the portal to say who holds a tunnel
CHECK_INTERVAL: Final = 5.0  # seconds

_CODES: Final = {Answer.LIMIT: ErrorCode.LIMIT, Answer.UNKNOWN: ErrorCode.UNKNOWN_UPSTREAM}


class HeldTunnel(Protocol):
    """What a passage asks of its tunnel."""

    @property
    def holders(self) -> Sequence[Holder]: ...
    @property
    def moving(self) -> bool:
        """Whether a gateway that holds it is stopping, so that its sessions will be somewhere else soon."""

    def take(self, target: Target, sock: socket.socket, source: str) -> StreamRefused | None:
        """Take a connection on a session of this gateway, or say why not."""


class Relay:
    """What all passages of a gateway share.

    Arguments: the installation's *secret*; *find*, the tunnel of an id; *reread*, which has the portal asked who holds
    a tunnel and returns when the answer is known.
    """

    def __init__(
        self, secret: str, find: Callable[[str], HeldTunnel | None], reread: Callable[[str], Awaitable[None]]
    ) -> None:
        self.find = find
        self.dialler = Dialler(secret.encode())
        self.parked = 0
        self._parked_of: Counter[str] = Counter()
        self._reread = reread
        self._changes: dict[str, asyncio.Event] = {}
        self._splices: set[Splice] = set()
        self._timer: asyncio.TimerHandle | None = None

    def note_change(self, tunnel_id: str) -> None:
        """Wake the connections that wait for a session of this tunnel: there is another, or another holder."""
        event = self._changes.pop(tunnel_id, None)
        if event is not None:
            event.set()

    def next_change(self, tunnel_id: str) -> asyncio.Event:
        """Return what is set when the tunnel changes next."""
        return self._changes.setdefault(tunnel_id, asyncio.Event())

    def may_park(self, tunnel_id: str) -> bool:
        """Say whether one more connection of a tunnel may wait."""
        return self.parked < MAX_PARKED and self._parked_of[tunnel_id] < MAX_PARKED_OF_TUNNEL

    @contextmanager
    def park(self, tunnel_id: str) -> Iterator[None]:
        """Count a connection that waits."""
        self.parked += 1
        self._parked_of[tunnel_id] += 1
        try:
            yield
        finally:
            self.parked -= 1
            self._parked_of[tunnel_id] -= 1
            if not self._parked_of[tunnel_id]:
                del self._parked_of[tunnel_id]

    async def reread(self, tunnel_id: str) -> None:
        """Have the portal asked who holds a tunnel; returns when it is known, or REREAD_TIMEOUT has passed."""
        try:
            async with asyncio.timeout(REREAD_TIMEOUT):
                await self._reread(tunnel_id)
        except TimeoutError:
            logger.debug("the portal has not said in time who holds tunnel %s", tunnel_id)

    def splice(self, one: socket.socket, other: socket.socket, on_end: Callable[[], None]) -> Splice:
        """Join two sockets, and look after them."""

        def ended() -> None:
            self._splices.discard(splice)
            on_end()

        splice = Splice(one, other, ended)
        self._splices.add(splice)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check)
        return splice

    def _check(self) -> None:
        self._timer = None
        for splice in list(self._splices):
            splice.check()
        if self._splices:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Passage:
    """One connection of an application on its way through another gateway.

    Arguments: *refuse* is given the socket and the reason where nobody takes the connection; *on_end* is called once,
    when the connection is over or somebody else's.
    """

    def __init__(
        self,
        relay: Relay,
        request: Request,
        sock: socket.socket,
        refuse: Callable[[socket.socket, str, StreamRefused], None],
        on_end: Callable[[Passage], None],
    ) -> None:
        self._relay = relay
        self._request = request
        self._socket: socket.socket | None = sock
        self._refuse = refuse
        self._on_end = on_end
        self._splice: Splice | None = None
        self._moving = False
        self._task = asyncio.get_running_loop().create_task(self._find_way())
        self._task.add_done_callback(self._way_found)

    def abort(self) -> None:
        """Reset the connection."""
        if self._splice is not None:
            self._splice.abort()
        else:
            self._task.cancel()

    def _way_found(self, task: asyncio.Task[StreamRefused | None]) -> None:
        if self._splice is not None:
            return
        sock, self._socket = self._socket, None
        if sock is not None:
            refusal = None if task.cancelled() or task.exception() is not None else task.result()
            if refusal is not None:
                self._refuse(sock, self._request.source, refusal)
            else:
                reset_socket(sock)
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.error("a fault of Moorline's own reset a connection; please report it", exc_info=fault)
        self._on_end(self)

    async def _find_way(self) -> StreamRefused | None:
        """Bring the connection to a session; returns why that was not possible, None where it was."""
        relay, tunnel_id = self._relay, self._request.tunnel_id
        deadline = monotonic() + PARK_TIMEOUT
        asked: set[tuple[str, int]] = set()  # gateways that had nothing for it, as long as nothing changes
        reread = False
        while True:
            change = relay.next_change(tunnel_id)
            refusal = await self._try_ways(asked, deadline)
            left = deadline - monotonic()
            if refusal is None or left <= 0:
                return refusal
            if change.is_set():
                asked.clear()
            elif self._moving:
                if not relay.may_park(tunnel_id):
                    return refusal
                if await self._park(change, min(left, ASK_AGAIN)):
                    asked.clear()
            elif not reread and refusal.code is ErrorCode.LOST:
                reread = True  # what is known of its holders may be a moment old
                await relay.reread(tunnel_id)
                if not change.is_set():
                    return refusal
                asked.clear()
            else:
                return refusal

    async def _park(self, change: asyncio.Event, limit: float) -> bool:
        """Wait for a change for *limit* seconds, and return whether there was one."""
        relay, tunnel_id = self._relay, self._request.tunnel_id
        with relay.park(tunnel_id):
            try:
                async with asyncio.timeout(limit):
                    await change.wait()
            except TimeoutError:
                await relay.reread(tunnel_id)
            return change.is_set()

    async def _try_ways(self, asked: set[tuple[str, int]], deadline: float) -> StreamRefused | None:
        request = self._request
        refusal = StreamRefused(ErrorCode.LOST, "no client is connected")
        tunnel = self._relay.find(request.tunnel_id)
        if tunnel is None or self._socket is None:
            return refusal
        self._moving = self._moving or tunnel.moving
        local = tunnel.take(request.target, self._socket, request.source)
        if local is None:
            self._socket = None
            return None
        if local.code is not ErrorCode.LOST:
            refusal = local
        dialler = self._relay.dialler
        for holder in dialler.in_order([holder for holder in tunnel.holders if not holder.draining]):
            left = deadline - monotonic()
            if left <= 0:
                break
            if (holder.gateway, holder.hop_port) in asked:
                continue
            asked.add((holder.gateway, holder.hop_port))
            try:
                other = await dialler.dial(holder, Request(request.tunnel_id, request.target, request.source), left)
            except HopFailed as failure:
                self._moving = self._moving or failure.answer is Answer.DRAINING
                code = _CODES.get(failure.answer, ErrorCode.LOST) if failure.answer is not None else ErrorCode.LOST
                refusal = StreamRefused(code, str(failure))
            else:
                sock, self._socket = self._socket, None
                self._splice = self._relay.splice(sock, other, lambda: self._on_end(self))
                return None
        return refusal
