"""Let one process of several do what two must not do at once: whoever holds a Lease leads.

The holder renews the Lease; one that has not been renewed for its whole duration is anybody's. What counts is how long
a process itself has seen no renewal, so clocks of different machines need not agree.
"""

from __future__ import annotations

import logging
import secrets
import socket
from datetime import UTC, datetime
from threading import Event
from time import monotonic
from typing import Any, Final

from portal.cluster.api import ApiRefused, KubernetesApi, Manifest, Unreachable

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15
RENEW_SECONDS: Final = 5.0  # how often the holder renews it
WATCH_SECONDS: Final = 2.0  # how often the others look
HTTP_CONFLICT: Final = 409


class Election:
    """One candidate for a Lease.

    Args:
        namespace: of the Lease.
        name: of the Lease.

    Attributes:
        identity: the name of this candidate in the Lease.
        terms: how often it was elected.
    """

    def __init__(self, api: KubernetesApi, namespace: str, name: str) -> None:
        self.identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self.name = name
        self._api = api
        self._namespace = namespace
        self.terms = 0
        self._held_until = 0.0  # on the monotonic clock
        self._seen: tuple[str, str] | None = None  # holder and time of renewal, as they were last seen to change
        self._seen_at = 0.0
        self._said = ""

    @property
    def is_leading(self) -> bool:
        """Whether nobody else can be leading now."""
        return monotonic() < self._held_until

    def run(self, stop: Event) -> None:
        """Stand for election until *stop* is set; the Lease stays held until `release`."""
        while not stop.is_set():
            self.step()
            stop.wait(RENEW_SECONDS if self.is_leading else WATCH_SECONDS)

    def step(self) -> None:
        """Take the Lease where it is free, renew it where it is ours; what fails is one line in the log."""
        began = monotonic()
        was_leading = self.is_leading
        try:
            holds = self._take_or_renew(began)
        except Unreachable as error:
            self._say(f"The API server does not answer for the Lease {self.name} ({error}).")
        except ApiRefused as refused:
            self._say(f"The Lease {self.name} is refused: {refused.message}. Check the rights of the service account.")
        else:
            self._said = ""
            if holds:
                # From before the request: others count from when it was answered.
                self._held_until = began + LEASE_SECONDS
                if not was_leading:
                    self.terms += 1
                    log.info("%s holds the Lease %s: this process leads.", self.identity, self.name)
            elif was_leading:
                self._held_until = 0.0
                log.warning("%s lost the Lease %s; another process leads.", self.identity, self.name)

    def release(self) -> None:
        """Let go of the Lease, so that another process leads at once."""
        if not self.is_leading:
            return
        self._held_until = 0.0
        try:
            lease = self._api.get("Lease", self._namespace, self.name)
            if lease is not None and _spec(lease).get("holderIdentity") == self.identity:
                self._write(lease, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except (Unreachable, ApiRefused) as error:
            log.warning("The Lease %s was not given back (%s); it ends by itself.", self.name, error)

    def _take_or_renew(self, now: float) -> bool:
        lease = self._api.get("Lease", self._namespace, self.name)
        if lease is None:
            return self._create()
        spec = _spec(lease)
        holder = str(spec.get("holderIdentity") or "")
        seen = (holder, str(spec.get("renewTime") or ""))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        duration = float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)
        if holder not in ("", self.identity) and now < self._seen_at + duration:
            return False
        changes: dict[str, Any] = {"leaseDurationSeconds": LEASE_SECONDS, "renewTime": _now()}
        if holder != self.identity:
            changes |= {
                "holderIdentity": self.identity,
                "acquireTime": changes["renewTime"],
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1,
            }
        return self._write(lease, changes)

    def _create(self) -> bool:
        moment = _now()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": moment,
            "renewTime": moment,
            "leaseTransitions": 0,
        }
        try:
            self._api.create(self._manifest() | {"spec": spec})
        except ApiRefused as refused:
            if refused.status == HTTP_CONFLICT:
                return False
            raise
        return True

    def _write(self, lease: Manifest, changes: dict[str, Any]) -> bool:
        """Change the Lease as it was read; False where another process was faster."""
        patch = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": changes}
        try:
            self._api.merge(self._manifest(), patch)
        except ApiRefused as refused:
            if refused.status == HTTP_CONFLICT:
                return False
            raise
        return True

    def _manifest(self) -> Manifest:
        metadata = {"name": self.name, "namespace": self._namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}

    def _say(self, message: str) -> None:
        """Write a line when something begins to be wrong, not at every attempt."""
        if message != self._said:
            log.warning("%s", message)
            self._said = message


def _spec(lease: Manifest) -> dict[str, Any]:
    return lease.get("spec") or {}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
