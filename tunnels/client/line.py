"""One line to a gateway, kept for ever: dial, hold the session, wait as long as is right, dial again."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final

import structlog

from ..endpoint import Timing
from ..protocol import SUBPROTOCOL, Hello
from ..transport.native import GatewayUnwanted, connect_native
from .backoff import Backoff, Pace
from .endings import Ending, explain_failure, explain_unwanted
from .exposure import ExposureCheck
from .forwarding import Forwarder
from .proxies import find_proxy, name_proxy, read_proxies
from .session import ClientSession
from .spread import Spread
from .tokens import TokenSource

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CONNECT_TIMEOUT: Final = 15.0  # seconds for name, proxy, TLS and upgrade together


@dataclass(frozen=True)
class Destination:
    """Where lines lead and what they say there: the *url*, the *token*, TLS for wss, and our *hello*."""

    url: str
    token: TokenSource
    tls: ssl.SSLContext | None
    hello: Hello
    timing: Timing | None = None


class Line:
    """Keep one session with the gateway at *destination*, whatever happens to it.

    A session that the gateway is leaving lives on beside its successor until its streams are done. *spread* knows the
    other lines of the client.
    """

    def __init__(
        self, destination: Destination, forwarder: Forwarder, exposure: ExposureCheck, backoff: Backoff, spread: Spread
    ) -> None:
        self.sessions: set[ClientSession] = set()
        self._destination = destination
        self._forwarder = forwarder
        self._exposure = exposure
        self._backoff = backoff
        self._spread = spread
        self._running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Hold the line until :meth:`finish` or :meth:`cut`."""
        self._running = asyncio.ensure_future(self._hold())
        await asyncio.wait({self._running})
        if not self._running.cancelled():
            self._running.result()

    async def finish(self, limit: float) -> None:
        """Dial no more, let open streams finish within *limit* seconds, and close."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await asyncio.gather(*[session.finish(limit, "the client is stopping") for session in self.sessions])

    def cut(self) -> None:
        """Stop at once."""
        if self._running is not None:
            self._running.cancel()
        for session in self.sessions:
            session.abandon()

    async def _hold(self) -> None:
        while True:
            ending = await self._hold_session()
            delay = self._backoff.next_delay(ending.pace, ending.at_least)
            self._spread.leave(self)
            say = log.info if ending.pace is Pace.AT_ONCE and not ending.at_least else log.warning
            say = log.debug if ending.pace is Pace.SOON else say
            say(f"not connected: {ending}; next attempt in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def _hold_session(self) -> Ending:
        """Connect, and return why there has to be another connection."""
        destination = self._destination
        try:
            token = destination.token.read()
        except ValueError as error:
            return Ending("the token can't be read", str(error), Pace.SLOW)
        session = ClientSession(
            destination.hello, self._forwarder, self._exposure, destination.timing, self._session_opened
        )
        self._keep(session)
        proxy: str | None = None
        try:
            proxy = find_proxy(destination.url, read_proxies())
            log.debug(f"connecting to {destination.url}" + (f" through the proxy {name_proxy(proxy)}" if proxy else ""))
            await connect_native(
                destination.url,
                session.endpoint,
                headers={"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": SUBPROTOCOL},
                ssl_context=destination.tls,
                proxy=proxy,
                timeout=CONNECT_TIMEOUT,
                wants=lambda gateway: self._spread.wants(self, gateway),
            )
        except BaseException as error:
            session.abandon()
            self.sessions.discard(session)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, GatewayUnwanted):
                return explain_unwanted(str(error))
            return explain_failure(error, destination.url, proxy, CONNECT_TIMEOUT)
        ending = await session.settled
        self._backoff.note_connection(session.lasted)
        return ending

    def _session_opened(self, opened: ClientSession) -> None:
        for session in self.sessions - {opened}:
            session.succeeded.set()

    def _keep(self, session: ClientSession) -> None:
        """Hold on to *session* until it has ended."""
        self.sessions = {known for known in self.sessions if not known.ended} | {session}
