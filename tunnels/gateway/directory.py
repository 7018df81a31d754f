"""What the gateway asks of the portal, as an interface: who may connect, what listens where, and who holds what."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ..protocol import ErrorCode


class Layout(Protocol):
    """One tunnel as gateways serve it, as of one revision."""

    @property
    def customer(self) -> str: ...
    @property
    def tunnel(self) -> str: ...
    @property
    def tunnel_id(self) -> str: ...
    @property
    def tcp_ports(self) -> Mapping[int, int]:
        """Each TCP port of the tunnel and the port to listen on for it; a port without one is not in it."""

    @property
    def http_port(self) -> int | None:
        """The port to listen on for HTTP, routed by Host; None where there was none left."""

    @property
    def hosts(self) -> tuple[str, ...]: ...
    @property
    def revision(self) -> int:
        """Rises with every change of the tunnel."""

    @property
    def max_streams(self) -> int:
        """How many streams a session may have at a time."""


class Grant(Layout, Protocol):
    """The answer to a good token: one tunnel, and what it may do."""

    @property
    def token_id(self) -> str: ...
    @property
    def max_sessions(self) -> int:
        """How many sessions the tunnel may have at a time."""


class Holder(Protocol):
    """A gateway that holds a live session of a tunnel, and where it takes connections from other gateways."""

    @property
    def gateway(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def hop_port(self) -> int: ...
    @property
    def draining(self) -> bool: ...


class Route(Layout, Protocol):
    """A tunnel with a live session somewhere, and who holds it."""

    @property
    def holders(self) -> Sequence[Holder]: ...


class Refused(Exception):
    """The client may not connect: an HTTP *status* and a *reason* that tells it what to do.

    *retry_after* is in seconds; *code* is what a session ends with that is up already.
    """

    def __init__(self, status: int, reason: str, *, retry_after: int = 0, code: ErrorCode = ErrorCode.REVOKED) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.code = code


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What the portal is told of a session that has opened."""

    session_id: str
    tunnel_id: str
    token_id: str
    gateway: str
    client_version: str
    client_instance: str
    client_address: str
    transport: str
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session has carried so far: bytes from the client and bytes to it."""

    bytes_received: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What a gateway says of itself.

    *address* is where others reach it, "" where they don't, and *hop_port* where it takes connections from other
    gateways, 0 where it takes none; *customers* are those that it serves, none for all of them.
    """

    name: str
    address: str
    hop_port: int
    version: str
    customers: tuple[str, ...]
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """Something changed: the tunnel itself, or *sessions_only*, who holds it.

    Without a *tunnel_id* any tunnel may have changed: notices may have been lost.
    """

    tunnel_id: str
    sessions_only: bool = False


class Directory(Protocol):
    """The portal as the gateway sees it. Every call may take as long as a database does."""

    async def authorize(self, customer: str, tunnel: str, token: str, address: str) -> Grant:
        """Return what *token* may do on this tunnel; raises Refused."""
        ...

    async def renew(self, grant: Grant) -> Grant:
        """Return the grant as it is now; raises Refused where it no longer holds."""
        ...

    async def gateway_started(self, report: GatewayReport) -> None:
        """Say that a gateway starts: sessions it had in an earlier life are over."""
        ...

    async def gateway_draining(self, gateway: str) -> None:
        """Say that *gateway* takes no new clients and no new streams."""
        ...

    async def gateway_stopped(self, gateway: str) -> None:
        """Say that *gateway* is gone."""
        ...

    async def session_opened(self, report: SessionReport) -> None: ...

    async def session_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None: ...

    async def heartbeat(self, report: GatewayReport, sessions: Mapping[str, Usage]) -> None:
        """Say that a gateway and these sessions of it are live, by id, and what each has carried; every 15 s."""
        ...

    async def routes(self, tunnel_ids: Collection[str] | None) -> Sequence[Route]:
        """Return those of the tunnels, or of all, that have a live session on a gateway that is alive."""
        ...

    def changes(self) -> AsyncGenerator[Notice, None]:
        """Yield a notice of each change, for ever."""
        ...
