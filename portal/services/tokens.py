"""Mint, revoke and mark tokens."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from portal.models import Token, Tunnel
from portal.notices import publish_on_commit
from portal.services.events import Actor, record_event

# Scanners of source code and logs find tokens by how they begin.
PREFIX = "mlt_"
SECRET_BYTES = 32  # 256 bits, 43 characters
SHOWN_CHARACTERS = 10
# Of a token that somebody else made: hashes are kept, and could be tried against short ones.
LEAST_CHARACTERS, MOST_CHARACTERS = 24, 256
# How exactly the last use of a token is known.
LAST_USED_PRECISION = timedelta(minutes=1)


def hash_token(plain_text: str) -> str:
    """Hash a token as it is kept; `Token` says why SHA-256 is right."""
    return hashlib.sha256(plain_text.encode("utf-8", "surrogateescape")).hexdigest()


@transaction.atomic
def mint_token(
    *, tunnel: Tunnel, name: str, expires_at: datetime | None = None, secret: str = "", actor: Actor
) -> tuple[Token, str]:
    """Make a token for a tunnel's clients.

    Args:
        name: where it is used, for people.
        expires_at: aware; it never expires when left out.
        secret: the Secret in the customer's namespace that is to hold it.

    Returns:
        The row, and the plain text, which exists nowhere else and cannot be had again.

    Raises:
        ValidationError: keyed by field.
    """
    plain_text = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    token = Token(
        tunnel=tunnel,
        name=name.strip(),
        hash=hash_token(plain_text),
        prefix=plain_text[:SHOWN_CHARACTERS],
        created_by=actor.name[:150],
        expires_at=expires_at,
        secret=secret,
    )
    token.full_clean()
    if expires_at is not None and expires_at <= timezone.now():
        raise ValidationError({"expires_at": ValidationError("Choose a time to come.", code="past")})
    token.save(force_insert=True)
    details = {"token": token.prefix, "name": token.name, "expires_at": expires_at and expires_at.isoformat()}
    record_event(actor=actor, verb="token.mint", tunnel=tunnel, details=details)
    return token, plain_text


@transaction.atomic
def adopt_token(*, tunnel: Tunnel, plain_text: str, secret: str, actor: Actor) -> Token:
    """Take a token that somebody else made and keeps in a Secret; the one it replaces there is revoked.

    Raises:
        ValidationError: when it could be guessed, or opens another tunnel or was revoked.
    """
    if not LEAST_CHARACTERS <= len(plain_text) <= MOST_CHARACTERS or not plain_text.isprintable():
        raise ValidationError(
            f"A token has {LEAST_CHARACTERS} to {MOST_CHARACTERS} characters on one line. Put a longer one into the "
            f"Secret, such as what openssl rand -hex 32 prints.",
            code="invalid",
        )
    found = Token.objects.select_related("tunnel").filter(hash=hash_token(plain_text)).first()
    if found is not None and (found.tunnel_id != tunnel.pk or found.revoked_at is not None):
        raise ValidationError(
            "This token was revoked, or opens another tunnel. Put a new one into the Secret.", code="taken"
        )
    if found is not None and found.expires_at is not None and found.expires_at <= timezone.now():
        raise ValidationError("This token has expired. Put a new one into the Secret.", code="expired")
    revoke_secret_tokens(tunnel=tunnel, kept=found, actor=actor)
    if found is not None:
        Token.objects.filter(pk=found.pk).update(secret=secret)
        return found
    token = Token(
        tunnel=tunnel,
        name=f"Secret {secret}"[:100],
        hash=hash_token(plain_text),
        prefix=plain_text[:SHOWN_CHARACTERS],
        created_by=actor.name[:150],
        secret=secret,
    )
    token.save(force_insert=True)
    record_event(actor=actor, verb="token.adopt", tunnel=tunnel, details={"token": token.prefix, "secret": secret})
    return token


@transaction.atomic
def revoke_secret_tokens(*, tunnel: Tunnel, kept: Token | None = None, actor: Actor) -> None:
    """Revoke the tokens of a tunnel that Secrets have held, but for the one that is *kept*."""
    for token in tunnel.tokens.exclude(secret="").filter(revoked_at=None):
        if kept is None or token.pk != kept.pk:
            revoke_token(token=token, actor=actor)


@transaction.atomic
def revoke_token(*, token: Token, actor: Actor) -> Token:
    """End the sessions that use a token and accept it no more; nothing happens when it is revoked already."""
    token = Token.objects.select_for_update(of=("self",)).select_related("tunnel__customer").get(pk=token.pk)
    if token.revoked_at is not None:
        return token
    token.revoked_at = timezone.now()
    token.save(update_fields=["revoked_at"])
    details = {"token": token.prefix, "name": token.name}
    record_event(actor=actor, verb="token.revoke", tunnel=token.tunnel, details=details)
    publish_on_commit([token.tunnel_id])
    return token


def touch_token(*, token: Token, now: datetime) -> None:
    """Note that a token was used, at most once a minute. Too frequent for the audit trail; sessions tell it better."""
    if token.last_used_at is not None and now - token.last_used_at < LAST_USED_PRECISION:
        return
    is_older = Q(last_used_at=None) | Q(last_used_at__lt=now)
    Token.objects.filter(is_older, pk=token.pk).update(last_used_at=now)
