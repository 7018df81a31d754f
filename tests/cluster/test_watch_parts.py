"""The parts of the watch that need no cluster, and what the command says where there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import pytest
import yaml
from django.conf import LazySettings
from django.core.management import CommandError, call_command

from portal.cluster import watch
from portal.cluster.api import Unreachable
from portal.cluster.intake import Intake, NotLeading
from portal.cluster.spec import read_installation
from portal.cluster.watch import STUCK_SECONDS, Notes, Worker
from portal.models import Tunnel
from portal.services.resources import TunnelResource, take_resource
from tests.cluster.apiserver import find_port

SECONDS = 10.0


def tunnel(name: str = "prod", **metadata: Any) -> dict[str, Any]:
    known = {"name": name, "namespace": "acmeco", "uid": f"uid-{name}", "generation": 1}
    return {"apiVersion": "moorline.dev/v1alpha1", "kind": "Tunnel", "metadata": known | metadata}


def namespace(**labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "acmeco", "labels": labels}}


@pytest.fixture
def noted() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def notes(noted: list[tuple[str, str]]) -> Notes:
    return Notes(lambda *name: noted.append(name), lambda: noted.append(("all", "")), inlets=False)


def test_a_new_status_is_nothing_to_look_at(notes: Notes, noted: list[tuple[str, str]]) -> None:
    notes.see_resource("ADDED", tunnel())
    notes.see_resource("MODIFIED", tunnel(resourceVersion="7") | {"status": {"sessions": 3}})
    assert noted == [("acmeco", "prod")]


def test_what_is_listed_is_compared_as_a_whole_where_it_is_news(notes: Notes, noted: list[tuple[str, str]]) -> None:
    notes.see_resource(None, tunnel())
    notes.see_resource(None, tunnel())
    assert noted == [("all", "")]
    notes.see_resource(None, tunnel(generation=2))
    assert noted == [("all", "")] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 2},
        {"labels": {"moorline.dev/managed-by": "portal"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"uid": "another"},
    ],
)
def test_whatever_else_changes_is(notes: Notes, noted: list[tuple[str, str]], change: dict[str, Any]) -> None:
    notes.see_resource("ADDED", tunnel())
    notes.see_resource("MODIFIED", tunnel(**change))
    notes.see_resource("DELETED", tunnel(**change))
    notes.see_resource("ADDED", tunnel(**change))
    assert noted == [("acmeco", "prod")] * 4


def test_a_label_of_a_namespace_has_its_resources_looked_at(notes: Notes, noted: list[tuple[str, str]]) -> None:
    notes.see_namespace(None, namespace())
    notes.see_resource(None, tunnel())
    notes.see_resource(None, tunnel("test"))
    notes.see_resource(None, tunnel("other", namespace="other"))
    noted.clear()
    labelled = namespace(**{"moorline.dev/uplink": "1"})
    notes.see_namespace("MODIFIED", labelled)
    assert noted == [("acmeco", "prod"), ("acmeco", "test")]
    notes.see_namespace("MODIFIED", labelled)
    assert len(noted) == 2
    notes.see_namespace("DELETED", labelled)
    notes.see_namespace("ADDED", namespace())
    assert len(noted) == 2


class Leader:
    """Somebody who leads from the first term on."""

    is_leading = True
    terms = 1


class Scripted:
    """An intake that does as it is told: what it cannot do here is fail, as a database or an API server does."""

    def __init__(self, do: Callable[[str], None], unsettled: set[tuple[str, str]]) -> None:
        self.comparisons = 0
        self._do = do
        self._unsettled = unsettled

    def find_unsettled(self) -> tuple[set[tuple[str, str]], set[str]]:
        self.comparisons += 1
        return self._unsettled, set()

    def settle(self, namespace: str, name: str) -> None:
        self._do(name)


def wait_for(condition: Callable[[], bool]) -> None:
    ends = monotonic() + SECONDS
    while not condition():
        assert monotonic() < ends
        sleep(0.01)


@contextmanager
def run_worker(intake: Scripted, leader: Leader) -> Iterator[Worker]:
    worker, stop = Worker(intake, leader, lambda served: None), Event()  # type: ignore[arg-type]
    thread = Thread(target=worker.run, args=[stop], daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.mark.parametrize(("failure", "level"), [(Unreachable("no answer"), "WARNING"), (ValueError("odd"), "ERROR")])
def test_what_fails_stops_nothing_else_and_is_looked_at_again_soon(
    caplog: pytest.LogCaptureFixture, failure: Exception, level: str
) -> None:
    healed, other = Event(), Event()
    failures = [failure]

    def do(name: str) -> None:
        if name == "bad" and failures:
            raise failures.pop()
        (healed if name == "bad" else other).set()

    intake = Scripted(do, {("acmeco", "bad")})
    with caplog.at_level(logging.INFO, "portal.cluster.watch"), run_worker(intake, Leader()) as worker:
        worker.note("acmeco", "good")
        assert other.wait(SECONDS)
        assert healed.wait(SECONDS)
    assert intake.comparisons >= 2
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    expected = "no answer" if level == "WARNING" else "this should not happen"
    assert lines == [(level, f"Tunnel resources, acmeco/bad: {expected}")]


def test_what_fails_each_time_is_looked_at_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(watch, "IDLE_SECONDS", 0.001)

    def fail(name: str) -> None:
        raise Unreachable("no answer")

    intake = Scripted(fail, {("acmeco", "bad")})
    begun = monotonic()
    with run_worker(intake, Leader()):
        wait_for(lambda: intake.comparisons >= 6)
        waited = monotonic() - begun
    assert waited >= 0.02 + 0.04 + 0.08 + 0.16 + 0.32


@pytest.mark.django_db
def test_a_resource_that_cannot_be_read_keeps_no_other_from_being_compared(caplog: pytest.LogCaptureFixture) -> None:
    class Api:
        """Lists what no schema has checked, as after somebody changed the definition."""

        def list_all(self, kind: str, namespace: str) -> list[dict[str, Any]]:
            return [tunnel("bad", generation="one") | {"spec": {}}, tunnel("good") | {"spec": {}}]

    taken = TunnelResource("moorline.dev", "acmeco", "bad", 1)
    take_resource(resource=taken)
    intake = Intake(Api(), ["moorline.dev"], read_installation())  # type: ignore[arg-type]
    assert intake.find_unsettled() == ({("acmeco", "bad"), ("acmeco", "good")}, {"moorline.dev"})
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("The Tunnel resource acmeco/bad cannot be compared: ValueError(")


class OneNamespace:
    """An API server that knows one namespace and what resources are in it."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self._bodies = bodies

    def get(self, kind: str, namespace_name: str, name: str) -> dict[str, Any] | None:
        if kind == "Namespace":
            return namespace(**{"moorline.dev/uplink": "1"})
        return next((body for body in self._bodies if body["metadata"]["name"] == name), None)

    def list_all(self, kind: str, namespace_name: str) -> list[dict[str, Any]]:
        return list(self._bodies)


@pytest.mark.django_db
@pytest.mark.parametrize("answers", [[False], [True, False]])
def test_who_leads_no_more_makes_no_tunnel(answers: list[bool]) -> None:
    groups = ["moorline.dev"]
    intake = Intake(
        OneNamespace(tunnel() | {"spec": {}}),  # type: ignore[arg-type]
        groups,
        read_installation(),
        lambda: answers.pop(0),
    )
    with pytest.raises(NotLeading):
        intake.settle("acmeco", "prod")
    assert not Tunnel.objects.exists()
    answers += [True, True]
    intake.settle("acmeco", "prod")
    assert Tunnel.objects.exists()


@pytest.mark.django_db
def test_who_leads_no_more_drops_no_tunnel() -> None:
    take_resource(resource=TunnelResource("moorline.dev", "acmeco", "prod", 1))
    answers = [False, True]
    intake = Intake(OneNamespace(), ["moorline.dev"], read_installation(), lambda: answers.pop(0))  # type: ignore[arg-type]
    with pytest.raises(NotLeading):
        intake.settle("acmeco", "prod")
    assert Tunnel.objects.exists()
    intake.settle("acmeco", "prod")
    assert not Tunnel.objects.exists()


def test_who_does_not_lead_looks_at_nothing_and_at_everything_once_it_does() -> None:
    seen: list[str] = []
    looked = Event()

    def do(name: str) -> None:
        seen.append(name)
        looked.set()

    leader = Leader()
    leader.is_leading = False
    intake = Scripted(do, {("acmeco", "missed")})
    with run_worker(intake, leader) as worker:
        worker.note("acmeco", "before")
        begun = worker.seen_alive_at
        wait_for(lambda: worker.seen_alive_at > begun)
        assert (intake.comparisons, seen) == (0, [])
        leader.is_leading = True
        assert looked.wait(SECONDS)
    assert seen == ["missed"]


def test_what_was_listed_is_compared_once_soon_after() -> None:
    looked = Event()
    intake = Scripted(lambda name: looked.set(), set())
    with run_worker(intake, Leader()) as worker:
        wait_for(lambda: intake.comparisons == 1)
        for _ in range(1000):
            worker.compare_soon()
        wait_for(lambda: intake.comparisons == 2)
        worker.note("acmeco", "prod")
        assert looked.wait(SECONDS)
    assert intake.comparisons == 2


def test_the_longest_look_is_shorter_than_what_counts_as_stuck() -> None:
    from portal.cluster.api import CONNECT_SECONDS, READ_SECONDS

    requests = 7  # two resources, a namespace, a list, a mirror once more, an Event or a status
    assert requests * (CONNECT_SECONDS + READ_SECONDS) < STUCK_SECONDS


def test_the_command_refuses_to_watch_without_a_cluster(settings: LazySettings) -> None:
    settings.MOORLINE_TARGET = "local"
    with pytest.raises(CommandError) as raised:
        call_command("watch")
    assert str(raised.value) == (
        "There is no cluster to watch: MOORLINE_TARGET is local. Set it to kubernetes, in a pod that has a service "
        "account or with MOORLINE_KUBECONFIG."
    )


def test_the_command_says_which_cluster_does_not_answer(settings: LazySettings, tmp_path: Path) -> None:
    settings.MOORLINE_TARGET = "kubernetes"
    settings.MOORLINE_KUBECONFIG = str(tmp_path / "missing")
    with pytest.raises(CommandError, match=r"missing.*Set MOORLINE_KUBECONFIG"):
        call_command("watch")
    cluster = {"server": f"https://127.0.0.1:{find_port()}"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": cluster}],
        "users": [{"name": "a", "user": {"token": "t"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))
    settings.MOORLINE_KUBECONFIG = str(tmp_path / "kubeconfig")
    with pytest.raises(CommandError, match=r"^The cluster does not answer \(.*refused.*what MOORLINE_KUBECONFIG names"):
        call_command("watch")
