"""One client's session as the gateway holds it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from ..endpoint import Endpoint, StreamHandler, Timing
from ..protocol import ErrorCode, Exposure, Hello, Limits, Role, Stream, Target
from ..protocol.frames import MAX_EXPOSED
from .directory import Grant, Layout, SessionReport, Usage

logger = logging.getLogger(__name__)


class GatewaySession:
    """The owner of one endpoint: what the client said of itself, which grant it has, when it opened and ended.

    *opened* and *ended* are called once each; *ended* also for a session that never opened. *draining* is called when
    the client takes no more streams. *notices* is how many changes the gateway had heard of when it asked for the
    grant.
    """

    def __init__(
        self,
        *,
        grant: Grant,
        gateway: str,
        address: str,
        agent: str,
        notices: int,
        opened: Callable[[GatewaySession], None],
        draining: Callable[[GatewaySession], None],
        ended: Callable[[GatewaySession, ErrorCode, str], None],
        timing: Timing | None,
    ) -> None:
        self.session_id = str(uuid4())
        self.grant = grant
        self.address = address
        self.client: Hello | None = None
        self.opened_at: datetime | None = None
        self.notices = notices
        self._told = grant.revision
        self._gateway = gateway
        self._opened = opened
        self._draining = draining
        self._ended = ended
        hello = Hello(agent, gateway, Limits(max_streams=grant.max_streams), exposure_of(grant))
        self.endpoint = Endpoint(Role.GATEWAY, hello, self, timing)

    def __str__(self) -> str:
        return f"{self.grant.customer}/{self.grant.tunnel} from {self.address}"

    @property
    def usable(self) -> bool:
        """Whether new streams can go over this session."""
        return self.endpoint.open and not self.endpoint.draining

    @property
    def usage(self) -> Usage:
        """What this session has carried so far."""
        return Usage(self.endpoint.bytes_received, self.endpoint.bytes_sent)

    def tell(self, layout: Layout) -> None:
        """Send the client what the tunnel exposes, where that is newer than what it was told."""
        if self._told < layout.revision and self.endpoint.open:
            self._told = layout.revision
            self.endpoint.send_update(exposure_of(layout))

    def report(self) -> SessionReport:
        """Return what the portal is told; for a session that has opened."""
        client = self.client or Hello()
        transport = self.endpoint.transport
        return SessionReport(
            session_id=self.session_id,
            tunnel_id=self.grant.tunnel_id,
            token_id=self.grant.token_id,
            gateway=self._gateway,
            client_version=client.agent,
            client_instance=client.instance,
            client_address=self.address,
            transport=transport.kind if transport is not None else "",
            opened_at=self.opened_at or datetime.now(UTC),
        )

    # -- EndpointHandler ----------------------------------------------------------------------------------------------

    def session_opened(self, hello: Hello) -> None:
        self.client = hello
        self.opened_at = datetime.now(UTC)
        self._opened(self)

    def session_closed(self, code: ErrorCode, reason: str) -> None:
        self._ended(self, code, reason)

    def session_draining(self, code: ErrorCode, deadline: float, reason: str) -> None:
        logger.info("%s: the client is stopping within %.0f s (%s)", self, deadline, reason or code.name)
        self._draining(self)

    def stream_opened(self, stream: Stream) -> StreamHandler:
        raise AssertionError("the protocol lets no client open streams")

    def probe_requested(self, probe_id: int, target: Target) -> None:
        raise AssertionError("the protocol lets no client probe")

    def exposure_changed(self, exposure: Exposure) -> None:
        raise AssertionError("the protocol lets no client send UPDATE")


def exposure_of(layout: Layout) -> Exposure:
    """Return what a client is told of its tunnel: of a long list, the beginning (SPEC.md section 4.1)."""
    ports = tuple(sorted(layout.tcp_ports))[:MAX_EXPOSED]
    return Exposure(layout.customer, layout.tunnel, ports, layout.hosts[:MAX_EXPOSED])
