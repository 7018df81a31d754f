"""Bring a cluster to what is desired: create, apply, prune; and nothing at all where it is so already."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from portal.cluster import names
from portal.cluster.api import ApiRefused, KubernetesApi, Manifest, kind_of
from portal.cluster.spec import NAME_TAKEN, Installation

Key = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True)
class Problem:
    """Why something desired is not in place, as a condition tells it: a *reason* in one word, and what to do."""

    reason: str
    message: str


class Observed:
    """The objects of one installation that were there when it was looked.

    Args:
        installation: whose they are.
        objects: all that were found, also those that are not of it.
        resources: the kinds of Tunnel resources that the cluster knows.
    """

    def __init__(
        self, installation: Installation, objects: Iterable[Manifest] = (), resources: Iterable[str] = ()
    ) -> None:
        self.objects: dict[Key, Manifest] = {key_of(manifest): manifest for manifest in objects}
        self.resources = frozenset(resources)
        self._of_tunnels: dict[tuple[str, str], list[Manifest]] = {}
        for manifest in self.objects.values():
            owner = find_owner(installation, manifest)
            if owner is not None:
                self._of_tunnels.setdefault(owner, []).append(manifest)

    @property
    def tunnels(self) -> set[tuple[str, str]]:
        """The customers and names of the tunnels that have an object here."""
        return set(self._of_tunnels)

    def of_tunnel(self, customer: str, tunnel: str) -> list[Manifest]:
        """Return the objects that were made for this tunnel."""
        return self._of_tunnels.get((customer, tunnel), [])


def find_owner(installation: Installation, manifest: Manifest) -> tuple[str, str] | None:
    """Return the customer and the name of the tunnel that an object was made for, or None.

    Anybody may write labels on objects of their own, so these count only where the object is where we would have made
    it, and under the name.
    """
    kind, namespace, name = key_of(manifest)
    labels = manifest["metadata"].get("labels") or {}
    customer, tunnel = labels.get(names.CUSTOMER, ""), labels.get(names.TUNNEL, "")
    if labels.get(names.INSTALLATION) != installation.name or not (customer and tunnel):
        return None
    match kind:
        case "NetworkPolicy":
            is_in_place = (namespace, name) == (installation.namespace, names.policy_name(customer, tunnel))
        case "Tunnel":
            is_mirror = labels.get(names.MIRROR) == names.MIRROR_VALUE
            is_in_place = is_mirror and (namespace, name) == (customer, tunnel)
        case "Secret":
            is_in_place = (namespace, name) == (customer, tunnel)
        case "Service" | "EndpointSlice":
            is_in_place = namespace == customer
        case _:
            is_in_place = False
    return (customer, tunnel) if is_in_place else None


@dataclass
class Change:
    """What bringing some objects to what is desired came to."""

    written: int = 0
    problems: list[Problem] = field(default_factory=list)
    made_namespace: bool = False


HTTP_INVALID: Final = 422
NOT_REACHED: Final = Problem("NotReached", "There was no time for it; it is next.")


def key_of(manifest: Manifest) -> Key:
    """Return what tells an object from all others."""
    metadata = manifest["metadata"]
    return kind_of(manifest), metadata.get("namespace", ""), metadata["name"]


def differs(desired: Any, live: Any) -> bool:
    """Say whether something desired is not so in what is live; what only the live one has does not count.

    A desired ``None`` has to be absent. Lists have to hold the same elements, in any order where these have names.
    """
    if desired is None or desired in ({}, []):
        return bool(live)
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return True
        return any(differs(value, live.get(key)) for key, value in desired.items())
    if isinstance(desired, list):
        if not isinstance(live, list) or len(desired) != len(live):
            return True
        pairs = zip(sorted(desired, key=_order), sorted(live, key=_order), strict=True)
        return any(differs(one, other) for one, other in pairs)
    return bool(desired != live)


def is_ours(live: Manifest, desired: Manifest) -> bool:
    """Say whether an object is the desired one, or somebody else's of the same name.

    Labels can be taken away by hand; that we wrote to it stays in its managed fields.
    """
    labels = live["metadata"].get("labels") or {}
    wanted = desired["metadata"]["labels"]
    keys = (names.INSTALLATION, names.CUSTOMER, names.TUNNEL)
    if any(key in labels and labels[key] != wanted.get(key) for key in keys):
        return False
    managers = {entry.get("manager") for entry in live["metadata"].get("managedFields") or []}
    return names.INSTALLATION in labels or names.MANAGER in managers


def bring(
    api: KubernetesApi,
    desired: Sequence[Manifest],
    live: Mapping[Key, Manifest],
    prunable: Iterable[Manifest] = (),
    ends: float = math.inf,
) -> Change:
    """Bring objects to what is desired, and delete those that are *prunable* and not desired.

    What one object runs into is noted and the others go on. A Service that is not ours gets no endpoints of ours.

    Args:
        live: the objects of ours that are there.
        ends: when to stop, by `time.monotonic`; what is left then is noted.

    Raises:
        Unreachable: the API server does not answer; what was done stays done.
    """
    change = Change()
    wanted = set()
    foreign = set()
    for manifest in desired:
        service = (
            manifest["metadata"].get("namespace"),
            manifest["metadata"].get("labels", {}).get(names.SERVICE_NAME),
        )
        if service in foreign:
            continue
        wanted.add(key_of(manifest))
        if monotonic() > ends:
            change.problems.append(NOT_REACHED)
            break
        try:
            change.written += bring_one(api, manifest, live.get(key_of(manifest)))
        except ApiRefused as refused:
            change.problems.append(explain_refusal(refused, manifest))
        except NotOurs as error:
            change.problems.append(Problem(NAME_TAKEN, str(error)))
            foreign |= {key_of(manifest)[1:]} if manifest["kind"] == "Service" else set()
    if NOT_REACHED in change.problems:
        return change
    for manifest in prunable:
        if key_of(manifest) not in wanted:
            try:
                change.written += api.delete(manifest)
            except ApiRefused as refused:
                change.problems.append(explain_refusal(refused, manifest))
    return change


class NotOurs(Exception):
    """Somebody else's object has the name; the message says which, and what to do."""


def bring_one(api: KubernetesApi, desired: Manifest, live: Manifest | None) -> int:
    """Bring one object to what is desired.

    Returns:
        How many writes that took.

    Raises:
        NotOurs: somebody else's object has the name; it is left as it is.
        ApiRefused, Unreachable: as the API says.
    """
    writes = 0
    if live is None:
        try:
            # Never by server-side apply: that would merge into whatever has the name.
            live, writes = api.create(desired), 1
        except ApiRefused as refused:
            if refused.reason != "AlreadyExists":
                raise
            live = api.find(*key_of(desired))
    if live is None or not is_ours(live, desired):
        raise NotOurs(explain_owner(desired, live or {}))
    if not differs(desired, live):
        return writes
    try:
        live, writes = api.apply(desired), writes + 1
    except ApiRefused as refused:
        # What others wrote into a list may not go together with our elements, as with a port's number that was changed.
        if refused.status != HTTP_INVALID:
            raise
    if differs(desired, live):
        # Elements that others put into a list, and fields that have to be absent, survive a server-side apply.
        patch = {key: value for key, value in desired.items() if key not in ("apiVersion", "kind", "metadata")}
        live, writes = api.merge(desired, patch), writes + 1
    return writes


def explain_owner(desired: Manifest, live: Manifest) -> str:
    """Say whose the object is that has the name of a desired one, and what to do."""
    kind, namespace, name = key_of(desired)
    labels = (live.get("metadata") or {}).get("labels") or {}
    wanted = desired["metadata"]["labels"]
    place = f"{kind} {namespace}/{name}"
    if labels.get(names.INSTALLATION) == wanted[names.INSTALLATION] and labels.get(names.TUNNEL):
        owner = f"{labels.get(names.CUSTOMER)}/{labels[names.TUNNEL]}"
        return f"{place} belongs to the tunnel {owner}. Give this tunnel, or that host name, another name."
    return f"{place} exists and is not Moorline's. Rename or delete it, or give the tunnel another name."


def explain_refusal(refused: ApiRefused, manifest: Manifest) -> Problem:
    """Turn what the API server refuses into a condition that a person can act on."""
    kind, namespace, name = key_of(manifest)
    place = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    if "NamespaceTerminating" in refused.causes or "being terminated" in refused.message:
        return Problem("NamespaceTerminating", f"The namespace {namespace} is being deleted; {place} waits for that.")
    if refused.status == 403 and "exceeded quota" in refused.message:
        return Problem("QuotaExceeded", f"A ResourceQuota of {namespace} leaves no room for {place}: {refused.message}")
    if refused.status == 403:
        return Problem(
            "Forbidden",
            f"The worker may not write {place}: {refused.message}. Give its service account the right, as the chart "
            "does.",
        )
    if refused.status == 404:
        return Problem("NamespaceMissing", f"{place} has no place: {refused.message}.")
    if refused.status == 409:
        return Problem("Conflict", f"{place} was changed by others at the same moment: {refused.message}.")
    return Problem("Invalid", f"The API server refuses {place}: {refused.message}.")


def _order(item: Any) -> str:
    """Sort what has a name by it, addresses by themselves, and leave what has neither where it stands."""
    if isinstance(item, Mapping):
        return str(item.get("name") or item.get("addresses") or item.get("type") or "")
    return json.dumps(item, sort_keys=True)
