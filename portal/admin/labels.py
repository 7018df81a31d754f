"""States as words with a colour."""

from __future__ import annotations

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from portal.models import Session, Token
from portal.queries import TokenState, TunnelState, token_state

TUNNEL_COLORS = {
    TunnelState.CONNECTED: "success",
    TunnelState.DISCONNECTED: "danger",
    TunnelState.NEVER_CONNECTED: "info",
    TunnelState.DISABLED: "default",
    TunnelState.SUSPENDED: "warning",
}
TOKEN_COLORS = {TokenState.ACTIVE: "success", TokenState.EXPIRED: "warning", TokenState.REVOKED: "default"}


def label_tunnel(state: TunnelState) -> SafeString:
    """Label a tunnel."""
    return _label(state.label, TUNNEL_COLORS[state])


def label_token(token: Token) -> SafeString:
    """Label a token."""
    state = token_state(token)
    return _label(state.label, TOKEN_COLORS[state])


def label_session(session: Session) -> SafeString:
    """Label a session."""
    return _label("Live", "success") if session.closed_at is None else _label("Closed", "default")


def label_customer(suspended: bool) -> SafeString:
    """Label a customer."""
    return _label("Suspended", "warning") if suspended else _label("Active", "success")


def _label(text: str, color: str) -> SafeString:
    return render_to_string("unfold/helpers/label.html", {"text": text, "type": color})
