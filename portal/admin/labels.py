"""How lists show things: states as words with a colour, long names and many names cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.template.loader import render_to_string
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from portal.models import Gateway, Session, Token
from portal.queries import GONE_AFTER, TokenState, TunnelState, token_state

TUNNEL_COLORS = {
    TunnelState.CONNECTED: "success",
    TunnelState.DISCONNECTED: "danger",
    TunnelState.NEVER_CONNECTED: "info",
    TunnelState.DISABLED: "default",
    TunnelState.EXPIRED: "warning",
    TunnelState.SUSPENDED: "warning",
}
TOKEN_COLORS = {TokenState.ACTIVE: "success", TokenState.EXPIRED: "warning", TokenState.REVOKED: "default"}

# In lists: how many ports or host names of one row, and how much of each name.
SHOWN_NAMES = 8
SHOWN_CHARACTERS = 48


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


def label_gateway(gateway: Gateway, now: datetime) -> SafeString:
    """Label a gateway by what it says of itself, and whether it still does."""
    if gateway.last_seen_at < now - GONE_AFTER:
        return _label("Silent", "danger")
    return _label("Stopping", "warning") if gateway.draining else _label("Up", "success")


def show_conditions(conditions: Sequence[Mapping[str, Any]]) -> SafeString | str:
    """Show how a row is in the cluster: each condition as a word with a colour, and what it says."""
    if not conditions:
        return "Not looked at yet: a worker does."
    return render_to_string(
        "admin/portal/conditions.html",
        {"conditions": [(_label(_name(one), _color(one)), one) for one in conditions]},
    )


def _name(condition: Mapping[str, Any]) -> str:
    return condition["type"] if condition["status"] == "True" else f"Not {condition['type'].lower()}"


def _color(condition: Mapping[str, Any]) -> str:
    is_true = condition["status"] == "True"
    if condition["type"] == "Degraded":
        return "danger" if is_true else "success"
    if condition["type"] == "Connected":
        return "success" if is_true else "info"
    return "success" if is_true else "danger"


def shorten(text: str) -> SafeString | str:
    """Cut a long name for a list; the whole of it shows under the pointer."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return format_html('<span title="{}">{}…</span>', text, text[: SHOWN_CHARACTERS - 1])


def list_some(names: Sequence[str]) -> SafeString | str:
    """Write the first of many names in one line, and how many there are besides; or "none"."""
    if not names:
        return "none"
    shown = format_html_join(", ", "{}", ((shorten(name),) for name in names[:SHOWN_NAMES]))
    more = names[SHOWN_NAMES:]
    if more:
        shown += format_html(' <span title="{}">+{} more</span>', ", ".join(more), len(more))
    return shown


def _label(text: str, color: str) -> SafeString:
    return render_to_string("unfold/helpers/label.html", {"text": text, "type": color})
