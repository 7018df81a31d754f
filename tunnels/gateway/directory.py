"""What the gateway asks of the portal, as an interface: who may connect, and what then listens where."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ..protocol import ErrorCode


class Grant(Protocol):
    """The answer to a good token: one tunnel, and what it may do."""

    @property
    def customer(self) -> str: ...
    @property
    def tunnel(self) -> str: ...
    @property
    def tunnel_id(self) -> str: ...
    @property
    def token_id(self) -> str: ...
    @property
    def tcp_ports(self) -> Mapping[int, int]:
        """Each TCP port of the tunnel and the port to listen on for it."""

    @property
    def http_port(self) -> int:
        """The port to listen on for HTTP, routed by Host."""

    @property
    def hosts(self) -> tuple[str, ...]: ...
    @property
    def revision(self) -> int:
        """Rises with every change of the tunnel."""

    @property
    def max_sessions(self) -> int:
        """How many sessions the tunnel may have at a time."""

    @property
    def max_streams(self) -> int:
        """How many streams a session may have at a time."""


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


class Directory(Protocol):
    """The portal as the gateway sees it. Every call may take as long as a database does."""

    async def authorize(self, customer: str, tunnel: str, token: str, address: str) -> Grant:
        """Return what *token* may do on this tunnel; raises Refused."""
        ...

    async def renew(self, grant: Grant) -> Grant:
        """Return the grant as it is now; raises Refused where it no longer holds."""
        ...

    async def gateway_started(self, gateway: str) -> None:
        """Say that *gateway* starts: sessions it had in an earlier life are over."""
        ...

    async def session_opened(self, report: SessionReport) -> None: ...

    async def session_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None: ...

    async def heartbeat(self, gateway: str, sessions: Mapping[str, Usage]) -> None:
        """Say that these sessions of *gateway* are live, by id, and what each has carried; called every 15 s."""
        ...

    def changes(self) -> AsyncGenerator[str, None]:
        """Yield the id of each tunnel that has changed, for ever."""
        ...
