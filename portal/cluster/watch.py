"""Watch Tunnel resources and take them in.

kopf says which object changed; one thread then looks at it, in its own time and always anew. Every minute that thread
compares everything with everything, which heals whatever was missed or failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from threading import Condition, Event, Thread
from time import monotonic
from typing import Any, Final

import kopf
from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections

from portal.cluster.api import ApiRefused, KubernetesApi, Unreachable, read_configuration
from portal.cluster.election import Election
from portal.cluster.intake import Intake, Name, NotLeading
from portal.cluster.resource import INLETS_GROUP, KINDS, VERSION, allows_tunnels
from portal.cluster.spec import read_installation

log = logging.getLogger(__name__)

RESYNC_SECONDS: Final = 60.0
FIRST_RETRY_SECONDS: Final = 2.0  # after something failed; twice as long each time, up to a minute
LISTED_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 0.25
# Any one look ends within this, whatever does not answer.
STUCK_SECONDS: Final = 180.0
STOP_SECONDS: Final = 15.0
EXPECTED: Final = (Unreachable, ApiRefused, NotLeading, DatabaseError, InterfaceError)


class WatchFailed(Exception):
    """The watch cannot go on; the message is one line."""


class Worker:
    """Settle what was noted, one name after the other, while this process leads."""

    def __init__(self, intake: Intake, election: Election, on_more: Callable[[set[str]], None]) -> None:
        """
        Args:
            on_more: told at each full comparison for which groups the cluster has Tunnel resources.
        """
        self._intake = intake
        self._election = election
        self._on_more = on_more
        self._noted: dict[Name, None] = {}
        self._news = Condition()
        self._term = 0
        self._resync_at = 0.0
        self._failures = 0
        self._has_failed = False  # since the comparison before
        self.seen_alive_at = monotonic()

    def note(self, namespace: str, name: str) -> None:
        """Remember to look at the resources of this name; from any thread."""
        with self._news:
            self._noted[namespace, name] = None
            self._news.notify()

    def compare_soon(self) -> None:
        """Have everything compared in a second, when kopf has listed all of it; from any thread."""
        with self._news:
            self._resync_at = min(self._resync_at, monotonic() + LISTED_SECONDS)

    def run(self, stop: Event) -> None:
        """Work until *stop* is set."""
        while not stop.is_set():
            self.seen_alive_at = monotonic()
            if not self._election.is_leading:
                stop.wait(IDLE_SECONDS)
                continue
            if self._term != self._election.terms:
                self._begin_term()
            if monotonic() >= self._resync_at:
                self._resync()
            name = self._next()
            if name is not None:
                self._attempt("/".join(name), partial(self._intake.settle, *name))

    def _begin_term(self) -> None:
        """Another process may have led in between: nothing noted before counts."""
        with self._news:
            self._noted.clear()
            self._resync_at = 0.0
        self._term, self._failures = self._election.terms, 0

    def _resync(self) -> None:
        with self._news:
            self._resync_at = monotonic() + RESYNC_SECONDS
        if not self._has_failed:
            self._failures = 0
        self._has_failed = False
        self._attempt("all", self._compare)

    def _compare(self) -> None:
        unsettled, served = self._intake.find_unsettled()
        for name in sorted(unsettled):
            self.note(*name)
        self._on_more(served)

    def _next(self) -> Name | None:
        with self._news:
            if not self._noted:
                self._news.wait(IDLE_SECONDS)
            name = next(iter(self._noted), None)
            if name is not None:
                del self._noted[name]
            return name

    def _attempt(self, what: str, look: Callable[[], None]) -> None:
        """Look once; what fails is looked at again by the next full comparison, which then comes sooner."""
        close_old_connections()
        try:
            look()
        except EXPECTED as error:
            log.warning("Tunnel resources, %s: %s", what, _one_line(error))
        except Exception:
            # A defect must not keep all other resources from being served.
            log.exception("Tunnel resources, %s: this should not happen", what)
        else:
            return
        finally:
            close_old_connections()
        self._has_failed = True
        self._failures += 1
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10), RESYNC_SECONDS)
        with self._news:
            self._resync_at = min(self._resync_at, monotonic() + delay)


class Notes:
    """Turn events into names to look at, leaving out those that change nothing of interest, as a new status does.

    What kopf lists, as it does at the start and after it was cut off, is not looked at one by one: to compare all at
    once is cheaper.

    Args:
        note: told the namespace and the name of resources to look at.
        compare: told that all are to be compared.
        inlets: whether the label of inlets uplink allows tunnels as well.
    """

    def __init__(self, note: Callable[[str, str], None], compare: Callable[[], None], *, inlets: bool) -> None:
        self._note = note
        self._compare = compare
        self._inlets = inlets
        self._resources: dict[tuple[str, str, str], Any] = {}
        self._allowed: dict[str, bool] = {}

    def see_resource(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """See an event of a Tunnel resource; its *kind* is None when it is listed."""
        metadata = body["metadata"]
        key = (str(body["apiVersion"]), metadata["namespace"], metadata["name"])
        if kind == "DELETED":
            self._resources.pop(key, None)
        else:
            labels = tuple(sorted((metadata.get("labels") or {}).items()))
            state = (metadata["uid"], metadata.get("generation"), labels, metadata.get("deletionTimestamp"))
            if self._resources.get(key) == state:
                return
            self._resources[key] = state
        if kind is None:
            self._compare()
        else:
            self._note(*key[1:])

    def see_namespace(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """See an event of a namespace: where tunnels are allowed now, its resources are looked at again."""
        namespace = body["metadata"]["name"]
        before = self._allowed.pop(namespace, False)
        if kind == "DELETED":
            return
        self._allowed[namespace] = allows_tunnels(body, inlets=self._inlets)
        if self._allowed[namespace] != before:
            for _, place, name in list(self._resources):
                if place == namespace:
                    self._note(place, name)


class Backoffs:
    """Seconds between attempts of kopf's, without end: it must not give up while an API server is away."""

    def __iter__(self) -> Iterator[float]:
        yield from (1.0, 1.0, 2.0, 3.0, 5.0)
        while True:
            yield 10.0


def run_watch(api: KubernetesApi, *, health_port: int) -> None:
    """Watch until SIGTERM, standing by while another process leads.

    Args:
        health_port: where GET /healthz is answered.

    Raises:
        WatchFailed: the cluster cannot be watched, or not any more.
    """
    groups = [group for group in KINDS if group != INLETS_GROUP or settings.MOORLINE_INLETS_COMPATIBLE]
    installation = read_installation()
    election = Election(api, installation.namespace, f"{installation.name}-watch")
    intake = Intake(api, groups, installation, lambda: election.is_leading)
    try:
        served = intake.find_served()
    except Unreachable as error:
        raise WatchFailed(
            f"The cluster does not answer ({error}). Check that it runs, and what MOORLINE_KUBECONFIG names."
        ) from error
    except ApiRefused as refused:
        raise WatchFailed(f"The cluster refuses to list Tunnel resources: {refused.message}.") from refused
    for group in sorted(set(groups) - served):
        log.warning("The cluster has no Tunnel resources of %s: install the chart's resource definitions.", group)
    asyncio.run(_watch(intake, election, groups, served, health_port))


async def _watch(intake: Intake, election: Election, groups: Sequence[str], served: set[str], health_port: int) -> None:
    loop, halt, stop = asyncio.get_running_loop(), asyncio.Event(), Event()
    failures: list[str] = []

    def fail(message: str) -> None:
        failures.append(message)
        loop.call_soon_threadsafe(halt.set)

    def compare_served(now: set[str]) -> None:
        if now - served:
            fail(f"The cluster now has Tunnel resources of {', '.join(now - served)}. Start again to watch them.")

    worker = Worker(intake, election, compare_served)
    threads = [_start("election", election.run, stop, fail), _start("worker", worker.run, stop, fail)]
    try:
        await kopf.operator(
            registry=_make_registry(
                Notes(worker.note, worker.compare_soon, inlets=INLETS_GROUP in groups), sorted(served), worker
            ),
            settings=_make_settings(),
            clusterwide=not settings.MOORLINE_TUNNELS_NAMESPACE,
            namespaces=[settings.MOORLINE_TUNNELS_NAMESPACE] if settings.MOORLINE_TUNNELS_NAMESPACE else [],
            liveness_endpoint=f"http://0.0.0.0:{health_port}/healthz",
            stop_flag=halt,
        )
    except Exception as error:
        raise WatchFailed(f"The watch ended: {_one_line(error)}. Start it again.") from error
    finally:
        stop.set()
        for thread in threads:
            thread.join(STOP_SECONDS)
        election.release()
    if failures:
        raise WatchFailed(failures[0])


def _start(name: str, run: Callable[[Event], None], stop: Event, fail: Callable[[str], None]) -> Thread:
    def guard() -> None:
        try:
            run(stop)
        except Exception:
            log.exception("The thread %s ended", name)
            fail(f"The thread {name} ended. Start again.")

    thread = Thread(target=guard, name=name, daemon=True)
    thread.start()
    return thread


def _make_registry(notes: Notes, served: Sequence[str], worker: Worker) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def log_in(**_: Any) -> kopf.ConnectionInfo:
        return _read_connection()

    @kopf.on.probe(registry=registry, id="worker")
    def check_worker(**_: Any) -> str:
        silent = monotonic() - worker.seen_alive_at
        if silent > STUCK_SECONDS:
            raise kopf.PermanentError(f"nothing was looked at for {silent:.0f} s")
        return "alive"

    async def see_resource(event: Any, **_: Any) -> None:
        notes.see_resource(event["type"], event["object"])

    async def see_namespace(event: Any, **_: Any) -> None:
        notes.see_namespace(event["type"], event["object"])

    for group in served:
        kopf.on.event(group, VERSION, "tunnels", registry=registry, id=f"see-{group}")(see_resource)
    if not settings.MOORLINE_TUNNELS_NAMESPACE:
        kopf.on.event("", "v1", "namespaces", registry=registry)(see_namespace)
    return registry


def _make_settings() -> kopf.OperatorSettings:
    """Set kopf up so that it reads alone: it posts no Events, and asks for no peers and no definitions."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.peering.standalone = True
    made.scanning.disabled = True
    made.watching.server_timeout = 300
    made.watching.connect_timeout = 5
    made.watching.chunk_size = 500
    made.networking.request_timeout = 30
    made.networking.connect_timeout = 5
    made.networking.error_backoffs = Backoffs()
    made.process.ultimate_exiting_timeout = 20
    return made


def _read_connection() -> kopf.ConnectionInfo:
    """Give kopf the credentials that the rest of Moorline uses."""
    found = read_configuration()
    header = found.get_api_key_with_prefix("BearerToken") or found.get_api_key_with_prefix("authorization") or ""
    scheme, _, token = header.rpartition(" ")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        username=found.username or None,
        password=found.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
