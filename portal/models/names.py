"""What a customer, a tunnel, a host and a port may be called."""

from __future__ import annotations

import ipaddress
import re

from django.core.exceptions import ValidationError

LABEL_LENGTH = 63
HOST_LENGTH = 253

# RFC 1123 section 2.1. The customer's name becomes a Kubernetes namespace, which asks for just this.
LABEL_PATTERN = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
# RFC 1035 section 2.3.1. The tunnel's name becomes a Kubernetes Service, which must begin with a letter as well.
LETTER_LABEL_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
HOST_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

# The first part of a path of the portal: a tunnel's address is /<customer>/<tunnel>.
PATHS = frozenset(
    [
        "accounts",
        "admin",
        "api",
        "assets",
        "claim",
        "dashboard",
        "docs",
        "events",
        "favicon",
        "gateway",
        "health",
        "healthz",
        "invite",
        "live",
        "livez",
        "login",
        "logout",
        "media",
        "metrics",
        "password",
        "portal",
        "readyz",
        "schema",
        "sessions",
        "static",
        "status",
        "tokens",
        "tunnels",
        "webhooks",
        "ws",
    ]
)
# Namespaces that a cluster has already, or where our own parts live.
NAMESPACES = frozenset({"default", "moorline", "moorline-system", "ingress-nginx", "cert-manager"})
# Inside a cluster `prod.acmeco` is looked up below the cluster's own domain first, so a namespace named as one of these
# would take over names of the cluster (`prod.svc`) or of the whole Internet (`prod.com`).
DOMAINS = frozenset(
    [
        "ai",
        "app",
        "arpa",
        "biz",
        "cloud",
        "cluster",
        "com",
        "dev",
        "edu",
        "gov",
        "info",
        "int",
        "internal",
        "local",
        "localhost",
        "mil",
        "net",
        "org",
        "pod",
        "svc",
    ]
)
RESERVED_CUSTOMERS = PATHS | NAMESPACES | DOMAINS
# Services that stand beside the tunnels in a customer's namespace, and names that mean this machine.
RESERVED_TUNNELS = frozenset({"gateway", "kubernetes", "localhost", "moorline", "pod", "svc"})
RESERVED_PREFIXES = ("kube-", "moorline-")

_LABEL_RULE = "Use 1 to 63 lower-case letters, digits and hyphens; the first and last character are no hyphen."


def validate_customer_name(name: str) -> None:
    """Refuse what cannot be a namespace, and what is taken.

    Raises:
        ValidationError: with a message that says what to do.
    """
    _validate_label(name)
    if name in RESERVED_CUSTOMERS or name.startswith(RESERVED_PREFIXES):
        raise ValidationError(f"“{name}” is reserved. Choose another name.", code="reserved")
    if len(name) == 2 and name.isalpha():
        raise ValidationError(
            "A name of two letters would take over a country's domain inside the cluster. Choose a longer one.",
            code="reserved",
        )


def validate_tunnel_name(name: str) -> None:
    """Refuse what cannot be a Service, and what is taken.

    Raises:
        ValidationError: with a message that says what to do.
    """
    _validate_label(name)
    if name[0].isdigit():
        raise ValidationError("Begin with a letter: the name becomes the name of a Service.", code="invalid")
    if name in RESERVED_TUNNELS or name.startswith(RESERVED_PREFIXES):
        raise ValidationError(f"“{name}” is reserved. Choose another name.", code="reserved")


def validate_host_name(name: str) -> None:
    """Refuse what is no DNS name in lower case (RFC 1123 section 2.1).

    Raises:
        ValidationError: with a message that says what to do.
    """
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        raise ValidationError(f"“{name}” is an address. Write a host name, such as intranet.local.", code="invalid")
    if not name.isascii():
        raise ValidationError(
            f"“{name}” has letters outside ASCII. Write it in its xn-- form, as browsers send it.", code="invalid"
        )
    too_long = len(name) > HOST_LENGTH or any(len(label) > LABEL_LENGTH for label in name.split("."))
    if too_long or not re.fullmatch(HOST_PATTERN, name):
        raise ValidationError(f"“{name[:80]}” is not a host name. Write one such as intranet.local.", code="invalid")


def _validate_label(name: str) -> None:
    if len(name) > LABEL_LENGTH or not re.fullmatch(LABEL_PATTERN, name):
        raise ValidationError(_LABEL_RULE, code="invalid")
