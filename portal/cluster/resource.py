"""The Tunnel resource: read what it asks for, and say in its status why that cannot be; pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from portal.cluster import names
from portal.cluster.api import Manifest
from portal.services.resources import ResourceRefused, TunnelResource

VERSION: Final = "v1alpha1"
INLETS_GROUP: Final = "uplink.inlets.dev"
# By group, the kind under which the API client knows it; the order decides between two of the same age.
KINDS: Final = {names.DOMAIN: "Tunnel", INLETS_GROUP: "InletsTunnel"}
# Labels of a namespace in which tunnels may be made, and of one that comes from inlets uplink.
UPLINK: Final = (names.UPLINK, "1")
INLETS_UPLINK: Final = ("inlets.dev/uplink", "1")
DEFAULT_KEY: Final = "token"
# Four digits in any time zone.
YEARS: Final = range(1000, 9999)


class ServedElsewhere(ResourceRefused):
    """It is another installation's to take or to refuse; this one speaks where nobody else does."""


def read_resource(body: Mapping[str, Any]) -> TunnelResource:
    """Read a Tunnel resource of either group; what is wrong with its fields is left for the services to say."""
    metadata, spec = body["metadata"], body.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    token, access = spec.get("tokenRef") or {}, spec.get("access") or {}
    mistakes = [
        f"spec.{field}: this is no object."
        for field, value in (("tokenRef", token), ("access", access))
        if not isinstance(value, Mapping)
    ]
    expires_at, mistake = _read_time(spec.get("expiresAt"))
    mistakes += [mistake] if mistake else []
    token = token if isinstance(token, Mapping) else {}
    has_token = bool(token.get("name"))
    return TunnelResource(
        group=str(body.get("apiVersion", "")).partition("/")[0],
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=str(metadata.get("uid") or ""),
        generation=int(metadata.get("generation") or 0),
        tcp_ports=_read_list(spec.get("tcpPorts")),
        host_names=_read_list(spec.get("upstreamDomains")),
        access=(access.get("from") if isinstance(access, Mapping) else None) or [],
        expires_at=expires_at,
        token_secret=str(token["name"]) if has_token else "",
        token_key=str(token.get("key") or DEFAULT_KEY) if has_token else "",
        token_namespace=str(token.get("namespace") or "") if has_token else "",
        mistake=" ".join(mistakes),
    )


def is_mirror(body: Mapping[str, Any]) -> bool:
    """Say whether a resource is labelled as the mirror of a tunnel of the portal."""
    return (body["metadata"].get("labels") or {}).get(names.MIRROR) == names.MIRROR_VALUE


def refuse_mirror(body: Mapping[str, Any], installation: str) -> ResourceRefused:
    """Say why a resource is not taken that is labelled as a mirror and mirrors nothing.

    Args:
        installation: our own.
    """
    metadata, group = body["metadata"], read_group(body)
    kind = ServedElsewhere if find_holder(body) not in ("", installation) else ResourceRefused
    return kind(
        "NotTaken",
        f"The label {names.MIRROR} says that this resource shows a tunnel of the portal, and there is none of this "
        f"name. Remove the label to have the resource taken: kubectl label tunnels.{group} {metadata['name']} "
        f"-n {metadata['namespace']} {names.MIRROR}-",
    )


def is_told_of(body: Mapping[str, Any]) -> bool:
    """Say whether the status of a resource was written by a reconciler; that of a refusal says no more than that."""
    conditions = (body.get("status") or {}).get("conditions") or []
    return any(condition.get("type") != "Accepted" for condition in conditions)


def is_going(body: Mapping[str, Any]) -> bool:
    """Say whether an object is being deleted, though somebody's finalizer holds it."""
    return bool(body["metadata"].get("deletionTimestamp"))


def allows_tunnels(namespace: Mapping[str, Any] | None, *, inlets: bool) -> bool:
    """Say whether tunnels may be made in a namespace.

    Args:
        namespace: its manifest; None where there is none.
        inlets: whether the label of inlets uplink says so as well.
    """
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    allowed = (UPLINK, INLETS_UPLINK) if inlets else (UPLINK,)
    return any(labels.get(key) == value for key, value in allowed)


def check_namespace(namespace: Mapping[str, Any] | None, name: str, installation: str, *, inlets: bool) -> None:
    """Refuse new tunnels in a namespace that is not for them.

    Args:
        namespace: its manifest; None where there is none.
        installation: our own; another one's namespaces are left to it.
        inlets: whether the label of inlets uplink allows tunnels as well.

    Raises:
        ResourceRefused: with what to do.
    """
    holder = find_holder(namespace or {})
    if holder not in ("", installation):
        raise ServedElsewhere(
            "NameTaken",
            f"The namespace {name} belongs to the installation {holder} of Moorline, and {installation} makes no "
            f"tunnels in it. Use another namespace, or remove its label {names.INSTALLATION}.",
        )
    if not allows_tunnels(namespace, inlets=inlets):
        raise ResourceRefused(
            "NamespaceNotLabelled",
            f"No tunnels may be made in this namespace. Allow it with: kubectl label namespace {name} "
            f"{'='.join(UPLINK)}",
        )


def find_holder(body: Mapping[str, Any]) -> str:
    """Return the installation whose label an object carries; empty where it carries none."""
    return str(((body.get("metadata") or {}).get("labels") or {}).get(names.INSTALLATION) or "")


def sort_by_age(bodies: list[Manifest]) -> list[Manifest]:
    """Sort resources of one name by which was first."""
    groups = list(KINDS)

    def key(body: Manifest) -> tuple[str, int]:
        return str(body["metadata"].get("creationTimestamp", "")), groups.index(read_group(body))

    return sorted(bodies, key=key)


def read_group(body: Mapping[str, Any]) -> str:
    """Return the API group of a resource."""
    return str(body["apiVersion"]).partition("/")[0]


def make_refused_status(body: Mapping[str, Any], refused: ResourceRefused, now: datetime) -> Manifest:
    """Return the status of a resource that is not taken in.

    Args:
        body: the resource; a refusal that goes on keeps the time when it began.
    """
    generation = body["metadata"].get("generation", 0)
    since = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    for condition in (body.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Accepted" and condition.get("status") == "False":
            since = condition.get("lastTransitionTime") or since
    condition = {
        "type": "Accepted",
        "status": "False",
        "reason": refused.reason,
        "message": refused.message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }
    return {"observedGeneration": generation, "sessions": 0, "conditions": [condition]}


def make_event(body: Mapping[str, Any], message: str, installation: str, now: datetime) -> Manifest:
    """Return the Event that tells whoever edited a mirror that this leads to nothing."""
    metadata, moment = body["metadata"], now.strftime("%Y-%m-%dT%H:%M:%SZ")
    involved = {
        "apiVersion": body["apiVersion"],
        "kind": "Tunnel",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata.get("uid"),
        "resourceVersion": metadata.get("resourceVersion"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{now.timestamp():.6f}", "namespace": metadata["namespace"]},
        "involvedObject": involved,
        "type": "Warning",
        "reason": "Reverted",
        "message": message,
        "source": {"component": f"{installation}-watch"},
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }


def _read_list(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _read_time(value: Any) -> tuple[datetime | None, str]:
    """Read a time of RFC 3339; with it, what is wrong with one that is none."""
    if value is None:
        return None, ""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        return None, f"spec.expiresAt: “{str(value)[:40]}” is no time. Write one such as 2030-01-31T12:00:00Z."
    if moment.year not in YEARS:
        return None, f"spec.expiresAt: “{str(value)[:40]}” is out of range. Leave it out, or write another year."
    return moment.astimezone(UTC), ""
