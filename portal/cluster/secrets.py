"""Tokens in Secrets: the one that a Tunnel resource asked for, and the one that it brought along.

A token's plain text exists at the moment it is minted and nowhere else of ours. So the Secret is written in the
transaction that mints the token: what fails leaves neither.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import transaction

from portal import queries
from portal.cluster import names, render
from portal.cluster.api import ApiRefused, KubernetesApi, Unreachable
from portal.cluster.apply import Problem, differs, explain_refusal
from portal.cluster.conditions import UNREACHABLE
from portal.cluster.spec import TunnelSpec
from portal.cluster.target import KubernetesTarget, Target
from portal.models import Source, Tunnel
from portal.services import tokens
from portal.services.events import Actor

ACTOR: Final = Actor("cluster")
KEY: Final = "token"


def keep_secret(target: Target, spec: TunnelSpec) -> list[Problem]:
    """See that the Secret of a tunnel that a resource asked for holds a token that opens it.

    Returns:
        What is wrong with it; nothing for a tunnel of the portal.
    """
    if spec.source != Source.RESOURCE or not isinstance(target, KubernetesTarget):
        return []
    name = spec.token_secret or spec.name
    try:
        if spec.token_secret:
            return _adopt(target.api, spec)
        return _mint(target, spec)
    except Unreachable as error:
        return [Problem(UNREACHABLE, f"The Secret {spec.customer}/{name} cannot be read now ({error}).")]
    except ApiRefused as refused:
        manifest = {"kind": "Secret", "metadata": {"namespace": spec.customer, "name": name}}
        return [explain_refusal(refused, manifest)]


def is_kept(target: KubernetesTarget, spec: TunnelSpec) -> bool:
    """Say whether the Secret of a tunnel holds a token that opens it."""
    name, key = spec.token_secret or spec.name, spec.token_key or KEY
    return _opens(spec, _read(target.api.get("Secret", spec.customer, name), key))


def _mint(target: KubernetesTarget, spec: TunnelSpec) -> list[Problem]:
    """Make the Secret, with a new token, unless it is there with one that opens the tunnel."""
    api = target.api
    live = api.get("Secret", spec.customer, spec.name)
    labels = names.labels_of(target.installation.name, spec.customer, spec.name)
    if live is not None and differs(labels, live["metadata"].get("labels") or {}):
        return [
            Problem(
                "NameTaken",
                f"The Secret {spec.customer}/{spec.name} exists and is not Moorline's. Delete it, or name it in "
                "tokenRef to use its token.",
            )
        ]
    if _opens(spec, _read(live, KEY)):
        return []
    with transaction.atomic():
        tunnel = Tunnel.objects.select_for_update(of=("self",)).filter(pk=spec.tunnel_id).first()
        if tunnel is None:
            return []
        tokens.revoke_secret_tokens(tunnel=tunnel, actor=ACTOR)
        _, plain_text = tokens.mint_token(tunnel=tunnel, name=f"Secret {spec.name}", secret=spec.name, actor=ACTOR)
        manifest = render.make_secret(target.installation, spec, plain_text)
        if live is None:
            api.create(manifest)
        else:
            api.merge(manifest, {"stringData": manifest["stringData"]})
    return []


def _adopt(api: KubernetesApi, spec: TunnelSpec) -> list[Problem]:
    """Take the token that a Secret of the customer's brought along."""
    name, key = spec.token_secret, spec.token_key or KEY
    live = api.get("Secret", spec.customer, name)
    if live is None:
        message = f"tokenRef names the Secret {spec.customer}/{name}, which is not there. Create it with the key {key}."
        return [Problem("TokenMissing", message)]
    plain_text = _read(live, key)
    if plain_text is None:
        message = f"The Secret {spec.customer}/{name} has no text under the key {key}. Put the token there."
        return [Problem("TokenMissing", message)]
    if _opens(spec, plain_text):
        return []
    tunnel = Tunnel.objects.select_related("customer").filter(pk=spec.tunnel_id).first()
    if tunnel is None:
        return []
    try:
        tokens.adopt_token(tunnel=tunnel, plain_text=plain_text, secret=name, actor=ACTOR)
    except ValidationError as error:
        return [Problem("TokenRefused", f"The Secret {spec.customer}/{name}: {' '.join(error.messages)}")]
    return []


def _opens(spec: TunnelSpec, plain_text: str | None) -> bool:
    if not plain_text:
        return False
    found = queries.active_tokens(Tunnel(pk=spec.tunnel_id)).filter(hash=tokens.hash_token(plain_text))
    return found.exclude(secret="").exists()


def _read(secret: dict[str, Any] | None, key: str) -> str | None:
    encoded = ((secret or {}).get("data") or {}).get(key)
    if not encoded:
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        return None
