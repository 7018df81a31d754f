"""One session with a gateway, from its HELLO to its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import structlog

from ..endpoint import Endpoint, StreamHandler, Timing
from ..protocol import ErrorCode, Exposure, Hello, Role, Stream, Target
from ..transport import MessageTransport
from .endings import Ending, explain_close, explain_end
from .exposure import ExposureCheck
from .forwarding import Forwarder

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CLOSE_TIMEOUT: Final = 3.0  # seconds for the closing handshake; the transport itself cuts after 2
GRACE: Final = 5.0  # seconds beyond the gateway's deadline
OVERLAP: Final = 2.0  # seconds that a session outlives the opening of its successor
POLL: Final = 0.05


class ClientEndpoint(Endpoint):
    """An endpoint that keeps how the WebSocket was closed, by which a plain ASGI server tells a refusal."""

    close_code: int | None = None
    close_reason = ""
    unwanted = False  # a dial that was given up may still succeed

    def transport_ready(self, transport: MessageTransport) -> None:
        self.gone = asyncio.Event()
        super().transport_ready(transport)
        if self.unwanted:
            transport.abort()

    def transport_lost(self, code: int, reason: str) -> None:
        self.close_code, self.close_reason = code, reason
        super().transport_lost(code, reason)
        self.gone.set()


class ClientSession:
    """The owner of one endpoint at the client.

    *settled* is done when another connection is wanted: the session has ended, or the gateway is stopping and lets
    the streams of this session finish meanwhile. *succeeded* is set when there is another; *opened* is called when this
    one is there.
    """

    def __init__(
        self,
        hello: Hello,
        forwarder: Forwarder,
        exposure: ExposureCheck,
        timing: Timing | None,
        opened: Callable[[ClientSession], None],
    ) -> None:
        self.endpoint = ClientEndpoint(Role.CLIENT, hello, self, timing)
        self.settled: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.succeeded = asyncio.Event()
        self.opened_at: float | None = None
        self.ended = False
        self._opened = opened
        self._forwarder = forwarder
        self._exposure = exposure
        self._finishing: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def lasted(self) -> float:
        """Seconds since the session opened."""
        return time.monotonic() - self.opened_at if self.opened_at is not None else 0.0

    @property
    def busy(self) -> bool:
        """Whether streams are open, or their last bytes still on the way to an upstream."""
        return bool(self.endpoint.streams or self._forwarder.connections.get(self.endpoint))

    async def finish(self, limit: float, reason: str) -> None:
        """Take no new streams, let the open ones finish within *limit* seconds, and close."""
        self._stopping = True
        self.endpoint.announce_end(ErrorCode.SHUTDOWN, limit, reason)
        await self._close_when_idle(limit, reason)

    def abandon(self) -> None:
        """Cut the connection at once, also one that is still being made."""
        self._stopping = True
        self.endpoint.unwanted = True
        if self.endpoint.transport is not None:
            self.endpoint.transport.abort()

    async def _leave(self, limit: float) -> None:
        """Close a session whose gateway is stopping, once it is idle and has a successor that the provider knows of.

        As long as it is there the provider's Services lead to its gateway, which passes new connections on.
        """
        deadline = time.monotonic() + limit
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self.succeeded.wait()
            await asyncio.sleep(OVERLAP)
        await self._close_when_idle(max(deadline - time.monotonic(), 0.0), "the gateway is stopping")

    async def _close_when_idle(self, limit: float, reason: str) -> None:
        deadline = time.monotonic() + limit
        # Nothing is called when the last stream goes, as its FIN may come from either side: look again and again.
        while self.busy and not self.ended and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
        if self.endpoint.transport is not None:
            self.endpoint.close(ErrorCode.SHUTDOWN, reason)
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self.endpoint.gone.wait()
            except TimeoutError:
                self.abandon()

    # -- EndpointHandler ----------------------------------------------------------------------------------------------

    def session_opened(self, hello: Hello) -> None:
        self.opened_at = time.monotonic()
        exposed = hello.exposure
        tunnel = f"{exposed.customer}/{exposed.tunnel}"
        log.info(f"connected: tunnel {tunnel} on gateway {hello.instance or hello.agent}", tunnel=tunnel)
        self._exposure.compare(exposed)
        self._opened(self)

    def stream_opened(self, stream: Stream) -> StreamHandler:
        return self._forwarder.open_stream(self.endpoint, stream)

    def probe_requested(self, probe_id: int, target: Target) -> None:
        self._forwarder.answer_probe(self.endpoint, probe_id, target)

    def exposure_changed(self, exposure: Exposure) -> None:
        self._exposure.compare(exposure)

    def session_draining(self, code: ErrorCode, deadline: float, reason: str) -> None:
        # "The gateway stops": another session is opened at once and this one's streams go on until the deadline.
        if code is ErrorCode.SHUTDOWN and deadline > 0 and not self._stopping:
            log.info(f"the gateway is stopping; open connections have {deadline:.0f} s, new ones take another session")
            self._settle(explain_end(code, reason))
            self._finishing = asyncio.ensure_future(self._leave(deadline + GRACE))

    def session_closed(self, code: ErrorCode, reason: str) -> None:
        self.ended = True
        self.succeeded.set()
        refusal = explain_close(self.endpoint.close_code, self.endpoint.close_reason)
        self._settle(refusal or explain_end(code, reason))

    def _settle(self, ending: Ending) -> None:
        if not self.settled.done():
            self.settled.set_result(ending)
