"""Decide whether a token opens a tunnel. Nobody else decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.utils import timezone

from portal.models import Token, Tunnel
from portal.queries import http_listen_port, tcp_listen_ports
from portal.services.tokens import hash_token, touch_token

# Longer than any token; what is longer is not worth hashing.
LONGEST_TOKEN = 256


class Refused(Exception):
    """The answer is no.

    Attributes:
        status: the HTTP status that says so: 401, 403 or 404.
        reason: a sentence for the person who runs the client, which says what to do.
        disabled: whether the tunnel lets nobody in, and not this token alone.
    """

    def __init__(self, status: int, reason: str, *, disabled: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.disabled = disabled


@dataclass(frozen=True)
class Grant:
    """What one token of one tunnel may do, as of one revision of the tunnel."""

    customer: str
    tunnel: str
    tunnel_id: str
    token_id: str
    tcp_ports: Mapping[int, int] = field(hash=False)  # the tunnel's port -> the port to listen on
    http_port: int | None
    hosts: tuple[str, ...]
    revision: int
    max_sessions: int
    max_streams: int


def authorize(*, customer: str, tunnel: str, token: str, now: datetime | None = None) -> Grant:
    """Decide whether a client that shows ``token`` at ``/<customer>/<tunnel>`` may connect.

    The token is looked up by its hash: how long that takes tells nothing, since nobody can choose a hash to try.

    Raises:
        Refused: 401 without a token we know, whatever the tunnel, so that a stranger cannot learn which tunnels exist;
            404 for a tunnel that is not there; 403 for one the token does not open, or not any more.
    """
    now = now or timezone.now()
    if not token:
        raise Refused(401, "No token was given. Start the client with the token that your provider gave you.")
    row = _find_token(token)
    if row is None:
        raise Refused(401, "This token is not known. Check that it was copied whole, or ask your provider for another.")
    _check_token(row, now)
    if (row.tunnel.customer.name, row.tunnel.name) != (customer, tunnel):
        raise _wrong_tunnel(customer, tunnel)
    _check_tunnel(row.tunnel, now)
    touch_token(token=row, now=now)
    return _make_grant(row)


def renew(grant: Grant, *, now: datetime | None = None) -> Grant:
    """Decide the same again for a session that is up, after something may have changed.

    Raises:
        Refused: 404 when the tunnel is gone, 403 when the token opens it no more.
    """
    row = Token.objects.select_related("tunnel__customer").filter(pk=grant.token_id).first()
    if row is None:
        raise Refused(404, f"The tunnel {grant.customer}/{grant.tunnel} was deleted. Ask your provider.")
    now = now or timezone.now()
    _check_token(row, now)
    _check_tunnel(row.tunnel, now)
    return _make_grant(row)


def _find_token(plain_text: str) -> Token | None:
    if len(plain_text) > LONGEST_TOKEN:
        return None
    return Token.objects.select_related("tunnel__customer").filter(hash=hash_token(plain_text)).first()


def _check_token(token: Token, now: datetime) -> None:
    if token.revoked_at is not None:
        raise Refused(403, f"The token {token.prefix}… was revoked. Ask your provider for another.")
    if token.expires_at is not None and token.expires_at <= now:
        when = f"{token.expires_at:%Y-%m-%d %H:%M} UTC"
        raise Refused(403, f"The token {token.prefix}… expired at {when}. Ask your provider for another.")


def _check_tunnel(tunnel: Tunnel, now: datetime) -> None:
    if tunnel.customer.suspended:
        raise Refused(403, f"The customer {tunnel.customer.name} is suspended. Ask your provider.", disabled=True)
    if not tunnel.enabled:
        raise Refused(403, f"The tunnel {tunnel} is disabled. Ask your provider to enable it.", disabled=True)
    if tunnel.expires_at is not None and tunnel.expires_at <= now:
        when = f"{tunnel.expires_at:%Y-%m-%d %H:%M} UTC"
        raise Refused(403, f"The tunnel {tunnel} expired at {when}. Ask your provider.", disabled=True)


def _wrong_tunnel(customer: str, tunnel: str) -> Refused:
    # What a URL can hold and a name cannot (NUL, half a surrogate pair) is an error to a database.
    is_name = customer.isascii() and tunnel.isascii() and (customer + tunnel).isprintable()
    if is_name and Tunnel.objects.filter(customer__name=customer, name=tunnel).exists():
        return Refused(403, "This token belongs to another tunnel. Check the URL and the token.")
    return Refused(404, "There is no tunnel at this URL. Check its last two parts, /<customer>/<tunnel>.")


def _make_grant(token: Token) -> Grant:
    tunnel = token.tunnel
    ports = list(tunnel.ports.all())
    return Grant(
        customer=tunnel.customer.name,
        tunnel=tunnel.name,
        tunnel_id=str(tunnel.pk),
        token_id=str(token.pk),
        tcp_ports=tcp_listen_ports(ports),
        http_port=http_listen_port(ports),
        hosts=tuple(tunnel.hosts.values_list("name", flat=True)),
        revision=tunnel.generation,
        max_sessions=tunnel.max_sessions,
        max_streams=tunnel.max_streams,
    )
