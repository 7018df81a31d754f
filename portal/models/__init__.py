"""Rows and their constraints. Rows are the truth; services write them and nothing else does."""

from portal.models.customers import Customer
from portal.models.events import Event
from portal.models.sessions import Session
from portal.models.tokens import Token
from portal.models.tunnels import HTTP_PORT, Tunnel, TunnelHost, TunnelPort

__all__ = ["HTTP_PORT", "Customer", "Event", "Session", "Token", "Tunnel", "TunnelHost", "TunnelPort"]
