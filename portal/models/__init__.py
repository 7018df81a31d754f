"""Rows and their constraints. Rows are the truth; services write them and nothing else does."""

from portal.models.customers import Customer, Source
from portal.models.decisions import StaffDecision
from portal.models.events import Event
from portal.models.gateways import Gateway
from portal.models.sessions import Session
from portal.models.status import CustomerStatus, Leftover, TunnelStatus, Work
from portal.models.tokens import RevokedHash, Token
from portal.models.tunnels import HTTP_PORT, ReleasedPort, Tunnel, TunnelHost, TunnelPort

__all__ = [
    "HTTP_PORT",
    "Customer",
    "CustomerStatus",
    "Event",
    "Gateway",
    "Leftover",
    "ReleasedPort",
    "RevokedHash",
    "Session",
    "Source",
    "StaffDecision",
    "Token",
    "Tunnel",
    "TunnelHost",
    "TunnelPort",
    "TunnelStatus",
    "Work",
]
