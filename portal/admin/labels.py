"""States as words with a colour."""

from __future__ import annotations

from portal.queries import TokenState, TunnelState

TUNNEL_COLORS = {
    TunnelState.CONNECTED.label: "success",
    TunnelState.DISCONNECTED.label: "danger",
    TunnelState.NEVER_CONNECTED.label: "info",
    TunnelState.DISABLED.label: "default",
    TunnelState.SUSPENDED.label: "warning",
}
TOKEN_COLORS = {
    TokenState.ACTIVE.label: "success",
    TokenState.EXPIRED.label: "warning",
    TokenState.REVOKED.label: "default",
}
