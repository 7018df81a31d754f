"""What objects in the cluster are called, and the labels that say they are ours."""

from __future__ import annotations

import hashlib
import re
from typing import Final

DOMAIN: Final = "moorline.dev"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "moorline"  # the value of that label, and the field manager of every write
INSTALLATION: Final = f"{DOMAIN}/installation"
CUSTOMER: Final = f"{DOMAIN}/customer"
TUNNEL: Final = f"{DOMAIN}/tunnel"
UPLINK: Final = f"{DOMAIN}/uplink"
CREATED_BY: Final = f"{DOMAIN}/created-by"  # annotation of a namespace that we made, and may delete
MIRROR: Final = f"{DOMAIN}/managed-by"  # label of a Tunnel resource that shows a tunnel of the portal
MIRROR_VALUE: Final = "portal"
SERVICE_NAME: Final = "kubernetes.io/service-name"
SLICE_MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"

CUSTOMER_OBJECT: Final = "moorline"  # the ResourceQuota and the NetworkPolicy of a customer's namespace
TUNNELS_POLICY: Final = "moorline-tunnels"  # the NetworkPolicy of the gateways that opens what is not restricted
LONGEST_LABEL: Final = 63
DIGEST_LENGTH: Final = 8


def labels_of(installation: str, customer: str = "", tunnel: str = "") -> dict[str, str]:
    """Return the labels of an object: of the installation, of a customer as a whole, or of one tunnel."""
    labels = {MANAGED_BY: MANAGER, INSTALLATION: installation}
    labels |= {CUSTOMER: customer} if customer else {}
    return labels | ({TUNNEL: tunnel} if tunnel else {})


def host_service(host: str) -> str:
    """Name the Service of an HTTP host name: itself where it is a label, else with hyphens for dots, cut to fit.

    A Service's name begins with a letter (RFC 1035 section 2.3.1); what begins otherwise gets one in front.
    """
    name = re.sub("[^a-z0-9-]", "-", host)
    if not name[0].isalpha():
        name = f"h-{name}"
    if len(name) <= LONGEST_LABEL:
        return name
    digest = hashlib.sha256(host.encode()).hexdigest()[:DIGEST_LENGTH]
    return f"{name[: LONGEST_LABEL - DIGEST_LENGTH - 1].rstrip('-')}-{digest}"


def slice_name(service: str, family: str, part: int) -> str:
    """Name an EndpointSlice of a Service: for each address family, and for each hundred ports."""
    name = f"{service}-{MANAGER}" if family == "IPv4" else f"{service}-{MANAGER}-{family.lower()}"
    return name if part == 0 else f"{name}-{part + 1}"


def policy_name(customer: str, tunnel: str) -> str:
    """Name the NetworkPolicy of a tunnel among those of the gateways; no label has a dot, so no two are alike."""
    return f"{MANAGER}-{customer}.{tunnel}"
