"""`manage.py watch` as a process, against a real API server, with just the rights that the chart gives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import LazySettings
from django.db import connection
from django.db.models import F

from portal.cluster.api import without_absent
from portal.cluster.election import LEASE_SECONDS, WATCH_SECONDS
from portal.cluster.render import make_mirror
from portal.cluster.spec import read_installation, read_tunnels
from portal.models import Customer, Tunnel, TunnelStatus
from portal.services.customers import create_customer
from portal.services.tunnels import create_tunnel
from portal.services.work import leave_over
from tests.chart.helm import ROOT, load
from tests.cluster.apiserver import ApiServer, OwnApiServer, find_kubernetes_programs, find_port
from tests.conftest import STAFF

pytestmark = [pytest.mark.api, pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

SECONDS = 20.0
LABEL = {"moorline.dev/uplink": "1"}
MOORLINE, INLETS = "moorline.dev", "uplink.inlets.dev"
INLETS_TOO = {"inletsCompatible": True}


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Return what a condition gives once that is something."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return found


class Watch:
    """One process of `manage.py watch`."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.port = find_port()
        self.log = log
        with log.open("ab") as file:
            command = [sys.executable, "manage.py", "watch", "--health-port", str(self.port)]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def is_healthy(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/healthz"
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
        return False

    def wait_until_healthy(self) -> None:
        wait_for(lambda: self.process.poll() is not None or self.is_healthy(), "healthy")
        assert self.process.poll() is None, self.read_log()

    def read_log(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=SECONDS)


class Watches:
    """Starts processes of one installation on the database of the test."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.installation = settings["MOORLINE_INSTALLATION"]
        self._folder = folder
        self._started: list[Watch] = []
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "MOORLINE_SECRET_KEY": "for-tests-only-0123456789-" * 2,
            "MOORLINE_DATA": str(folder),
            "MOORLINE_DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
            "MOORLINE_TARGET": "kubernetes",
            "MOORLINE_NAMESPACE": "moorline",
            "MOORLINE_PUBLIC_URL": "https://uplink.example.com",
            **settings,
        }

    def start(self, **settings: str) -> Watch:
        watch = Watch(self._environment | settings, self._folder / f"watch-{len(self._started)}.log")
        self._started.append(watch)
        watch.wait_until_healthy()
        return watch

    def close(self) -> None:
        for watch in self._started:
            if watch.process.poll() is None:
                watch.process.kill()
                watch.process.wait(timeout=SECONDS)


def load_rights(release: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the roles that the chart makes for the watch with these values, and their bindings."""
    kinds = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
    documents = [document for document in load(values, name=release) if document["kind"] in kinds]
    component = "app.kubernetes.io/component"
    return [document for document in documents if document["metadata"]["labels"][component] == "watch"]


def give_rights(cluster: ApiServer, release: str, values: dict[str, Any]) -> Path:
    """Return a kubeconfig of an account that has what the chart gives the watch with these values."""
    documents = load_rights(release, values)
    (account,) = {one["subjects"][0]["name"] for one in documents if one["kind"].endswith("Binding")}
    kubeconfig = cluster.make_kubeconfig(account, "moorline")
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))
    return kubeconfig


@pytest.fixture(scope="session")
def kubeconfig(cluster: ApiServer) -> Path:
    return give_rights(cluster, "watch-tests", INLETS_TOO)


@pytest.fixture
def watches(cluster: ApiServer, kubeconfig: Path, tmp_path: Path, settings: LazySettings) -> Iterator[Watches]:
    settings.MOORLINE_INSTALLATION = cluster.make_name("installation")
    started = Watches(
        tmp_path,
        MOORLINE_INSTALLATION=settings.MOORLINE_INSTALLATION,
        MOORLINE_KUBECONFIG=str(kubeconfig),
        MOORLINE_INLETS_COMPATIBLE="1",
    )
    yield started
    started.close()


@pytest.fixture
def namespace(cluster: ApiServer) -> Iterator[str]:
    """A namespace in which tunnels may be made, and none are left at the end."""
    name = cluster.make_namespace("acmeco", LABEL)
    yield name
    for group in (MOORLINE, INLETS):
        cluster.kubectl("delete", f"tunnels.{group}", "--all", "-n", name)


def apply(
    cluster: ApiServer,
    namespace: str,
    name: str,
    spec: dict[str, Any],
    group: str = MOORLINE,
    labels: dict[str, str] | None = None,
) -> None:
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
    manifest = {"apiVersion": f"{group}/v1alpha1", "kind": "Tunnel", "metadata": metadata, "spec": spec, "status": {}}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))


def read(cluster: ApiServer, namespace: str, name: str, group: str = MOORLINE) -> dict[str, Any]:
    return dict(cluster.read(f"tunnels.{group}", name, "-n", namespace))


def find_rows(namespace: str) -> dict[str, list[int]]:
    """Return the tunnels of a customer with their TCP ports."""
    tunnels = Tunnel.objects.filter(customer__name=namespace).prefetch_related("ports")
    return {tunnel.name: sorted(port.port for port in tunnel.ports.all() if port.kind == "tcp") for tunnel in tunnels}


def wait_for_rows(namespace: str, rows: dict[str, list[int]], seconds: float = SECONDS) -> None:
    wait_for(lambda: find_rows(namespace) == rows, f"{rows} in {namespace}", seconds)


def find_refusal(cluster: ApiServer, namespace: str, name: str, group: str = MOORLINE) -> str:
    conditions = (read(cluster, namespace, name, group).get("status") or {}).get("conditions") or []
    return next((one["reason"] for one in conditions if (one["type"], one["status"]) == ("Accepted", "False")), "")


def find_reverts(cluster: ApiServer, namespace: str) -> list[str]:
    events = cluster.read("events", "-n", namespace)["items"]
    return [event["message"] for event in events if (event["type"], event["reason"]) == ("Warning", "Reverted")]


def make_portal_tunnel(cluster: ApiServer, namespace: str) -> Tunnel:
    """Make a tunnel as staff do, and its mirror as the reconciler does."""
    customer = create_customer(name=namespace, actor=STAFF)
    tunnel = create_tunnel(customer=customer, name="prod", tcp_ports=[25060], actor=STAFF)
    mend_mirror(cluster, tunnel)
    return tunnel


def mend_mirror(cluster: ApiServer, tunnel: Tunnel) -> None:
    mirror = json.dumps(without_absent(make_mirror(read_installation(), read_tunnels([tunnel.pk])[0])))
    words = ["apply", "--server-side", "--field-manager", "moorline", "--force-conflicts", "-f", "-"]
    cluster.kubectl(*words, input=mirror)
    TunnelStatus.objects.filter(pk=tunnel.pk).update(applied_revision=F("revision"))


def is_touched(tunnel: Tunnel) -> bool:
    return TunnelStatus.objects.filter(pk=tunnel.pk, revision__gt=F("applied_revision")).exists()


@pytest.mark.parametrize("group", [MOORLINE, INLETS])
def test_a_manifest_makes_rows_and_its_deletion_removes_them(
    cluster: ApiServer, watches: Watches, namespace: str, group: str
) -> None:
    watches.start()
    apply(cluster, namespace, "postgres-prod", {"tcpPorts": [25060]}, group)
    wait_for_rows(namespace, {"postgres-prod": [25060]})
    assert Customer.objects.get(name=namespace).source == "resource"
    apply(cluster, namespace, "postgres-prod", {"tcpPorts": [5432, 22]}, group)
    wait_for_rows(namespace, {"postgres-prod": [22, 5432]})
    # Nothing is left on the user's object: no finalizer to hang at, no annotation, and the status is the worker's.
    found = read(cluster, namespace, "postgres-prod", group)
    assert "finalizers" not in found["metadata"]
    assert [*found["metadata"]["annotations"]] == ["kubectl.kubernetes.io/last-applied-configuration"]
    assert not found.get("status")
    cluster.kubectl("delete", f"tunnels.{group}", "postgres-prod", "-n", namespace)
    wait_for(lambda: not Customer.objects.filter(name=namespace).exists(), "no customer")


def test_a_namespace_is_served_once_it_is_labelled(cluster: ApiServer, watches: Watches) -> None:
    namespace = cluster.make_namespace("later")
    watches.start()
    apply(cluster, namespace, "prod", {"tcpPorts": [25060]})
    wait_for(lambda: find_refusal(cluster, namespace, "prod") == "NamespaceNotLabelled", "refused")
    (condition,) = read(cluster, namespace, "prod")["status"]["conditions"]
    command = condition["message"].rpartition(": ")[2].split()
    assert command[0] == "kubectl"
    cluster.kubectl(*command[1:])
    wait_for_rows(namespace, {"prod": [25060]})
    cluster.kubectl("delete", "tun", "prod", "-n", namespace)
    wait_for_rows(namespace, {})


def test_the_label_of_inlets_uplink_counts_where_its_resources_are_served(cluster: ApiServer, watches: Watches) -> None:
    namespace = cluster.make_namespace("inlets", {"inlets.dev/uplink": "1"})
    apply(cluster, namespace, "prod", {"tcpPorts": [25060], "licenseRef": {"name": "license"}}, INLETS)
    watches.start()
    wait_for_rows(namespace, {"prod": [25060]})
    cluster.kubectl("delete", f"tunnels.{INLETS}", "prod", "-n", namespace)
    wait_for_rows(namespace, {})


def test_a_refused_change_is_told_by_the_row_and_a_refused_resource_by_itself(
    cluster: ApiServer, watches: Watches, namespace: str
) -> None:
    watches.start()
    elsewhere = {"tcpPorts": [22], "tokenRef": {"name": "t", "namespace": "kube-system"}}
    apply(cluster, namespace, "prod", elsewhere)
    wait_for(lambda: find_refusal(cluster, namespace, "prod") == "TokenElsewhere", "refused")
    apply(cluster, namespace, "prod", {"tcpPorts": [22], "tokenRef": {"name": "t"}})
    wait_for_rows(namespace, {"prod": [22]})
    before = read(cluster, namespace, "prod")["status"]
    apply(cluster, namespace, "prod", elsewhere | {"tcpPorts": [23]})
    status = TunnelStatus.objects.filter(tunnel__customer__name=namespace)
    wait_for(lambda: status.get().refusal.get("reason") == "TokenElsewhere", "refused")
    assert find_rows(namespace) == {"prod": [22]}
    assert read(cluster, namespace, "prod")["status"] == before


def test_the_second_resource_of_a_name_waits_for_the_first(
    cluster: ApiServer, watches: Watches, namespace: str
) -> None:
    watches.start()
    apply(cluster, namespace, "prod", {"tcpPorts": [22]}, INLETS)
    wait_for_rows(namespace, {"prod": [22]})
    pk = Tunnel.objects.get(customer__name=namespace).pk
    apply(cluster, namespace, "prod", {"tcpPorts": [22]})
    wait_for(lambda: find_refusal(cluster, namespace, "prod") == "NameTaken", "refused")
    cluster.kubectl("delete", f"tunnels.{INLETS}", "prod", "-n", namespace)
    wait_for(lambda: Tunnel.objects.get(customer__name=namespace).resource_group == MOORLINE, "taken over")
    # The same tunnel still, with its tokens and its sessions.
    assert Tunnel.objects.get(customer__name=namespace).pk == pk


def test_an_edit_of_a_mirror_is_left_to_the_reconciler_and_told(
    cluster: ApiServer, watches: Watches, namespace: str
) -> None:
    tunnel = make_portal_tunnel(cluster, namespace)
    watches.start()
    # While the reconciler has work to do, what differs is most likely what it is about to write.
    TunnelStatus.objects.filter(pk=tunnel.pk).update(revision=5)
    patch = json.dumps({"spec": {"tcpPorts": [1]}})
    cluster.kubectl("patch", "tun", "prod", "-n", namespace, "--type=merge", "-p", patch)
    wait_for(lambda: TunnelStatus.objects.get(pk=tunnel.pk).revision > 5, "touched")
    mend_mirror(cluster, tunnel)
    cluster.kubectl("patch", "tun", "prod", "-n", namespace, "--type=merge", "-p", patch)
    wait_for(lambda: find_reverts(cluster, namespace), "an Event")
    url = f"https://uplink.example.com/admin/portal/tunnel/{tunnel.pk}/change/"
    assert find_reverts(cluster, namespace) == [
        f"The portal manages this tunnel, so the resource is changed back. Change or delete the tunnel at {url}"
    ]
    assert is_touched(tunnel)
    mend_mirror(cluster, tunnel)
    cluster.kubectl("label", "tun", "prod", "-n", namespace, "moorline.dev/managed-by-")
    wait_for(lambda: len(find_reverts(cluster, namespace)) == 2, "an Event of the label")
    mend_mirror(cluster, tunnel)
    cluster.kubectl("delete", "tun", "prod", "-n", namespace)
    wait_for(lambda: len(find_reverts(cluster, namespace)) == 3, "an Event of the deletion")
    assert is_touched(tunnel)
    assert find_rows(namespace) == {"prod": [25060]}


def test_a_resource_with_the_name_of_a_portal_tunnel_is_refused(
    cluster: ApiServer, watches: Watches, namespace: str
) -> None:
    create_tunnel(customer=create_customer(name=namespace, actor=STAFF), name="prod", actor=STAFF)
    watches.start()
    for group in (MOORLINE, INLETS):
        apply(cluster, namespace, "prod", {"tcpPorts": [22]}, group)
        wait_for(lambda group=group: find_refusal(cluster, namespace, "prod", group) == "NameTaken", "refused")
    assert find_rows(namespace) == {"prod": []}
    assert find_reverts(cluster, namespace) == []


def test_a_mirror_of_nothing_is_told_how_to_be_taken(cluster: ApiServer, watches: Watches, namespace: str) -> None:
    leave_over(customer_name=namespace, tunnel_name="going")
    ours = {"moorline.dev/managed-by": "portal", "moorline.dev/installation": watches.installation}
    theirs = ours | {"moorline.dev/installation": "other"}
    for name, labels in {"going": ours, "shown": theirs, "copied": theirs, "stray": ours}.items():
        apply(cluster, namespace, name, {"tcpPorts": [22]}, labels=labels)
    conditions = [
        {"type": kind, "status": "True", "reason": kind, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in ("Accepted", "Connected")
    ]
    status = json.dumps({"status": {"conditions": conditions}})
    cluster.kubectl("patch", "tun", "shown", "-n", namespace, "--subresource=status", "--type=merge", "-p", status)
    watches.start()
    for name in ("copied", "stray"):
        wait_for(lambda name=name: find_refusal(cluster, namespace, name) == "NotTaken", "refused")
    (condition,) = read(cluster, namespace, "stray")["status"]["conditions"]
    assert condition["message"].endswith(f"kubectl label tunnels.{MOORLINE} stray -n {namespace} {[*ours][0]}-")
    assert find_rows(namespace) == {}
    cluster.kubectl(*condition["message"].rpartition("kubectl ")[2].split())
    wait_for_rows(namespace, {"stray": [22]})
    # Looked at before it, in the order of names.
    assert not read(cluster, namespace, "going").get("status")
    assert read(cluster, namespace, "shown")["status"] == {"conditions": conditions}


def test_a_namespace_of_another_installation_is_left_to_it(cluster: ApiServer, watches: Watches) -> None:
    namespace = cluster.make_namespace("theirs", LABEL | {"moorline.dev/installation": "other"})
    watches.start()
    apply(cluster, namespace, "prod", {"tcpPorts": [22]})
    wait_for(lambda: find_refusal(cluster, namespace, "prod") == "NameTaken", "refused")
    (condition,) = read(cluster, namespace, "prod")["status"]["conditions"]
    assert f"{namespace} belongs to the installation other of Moorline" in condition["message"]
    assert not Customer.objects.filter(name=namespace).exists()
    cluster.kubectl("delete", "tun", "prod", "-n", namespace)


def test_what_happened_while_no_watch_ran_is_caught_up(cluster: ApiServer, watches: Watches, namespace: str) -> None:
    watch = watches.start()
    for name in ("stays", "goes", "changes"):
        apply(cluster, namespace, name, {"tcpPorts": [22]})
    wait_for_rows(namespace, {"stays": [22], "goes": [22], "changes": [22]})
    assert watch.stop() == 0
    cluster.kubectl("delete", "tun", "goes", "-n", namespace)
    apply(cluster, namespace, "changes", {"tcpPorts": [443]})
    apply(cluster, namespace, "comes", {"tcpPorts": [80]})
    # The one that stopped has let go of the Lease: nobody waits for its end.
    watches.start()
    wait_for_rows(namespace, {"stays": [22], "changes": [443], "comes": [80]}, LEASE_SECONDS - 5)


def test_the_other_watch_takes_over_when_the_leader_is_killed(
    cluster: ApiServer, watches: Watches, namespace: str
) -> None:
    leader = watches.start()
    apply(cluster, namespace, "first", {"tcpPorts": [22]})
    wait_for_rows(namespace, {"first": [22]})
    other = watches.start()
    holder = read_holder(cluster, watches)
    assert leader.is_healthy()
    assert other.is_healthy()
    leader.stop(signal.SIGKILL)
    apply(cluster, namespace, "second", {"tcpPorts": [22]})
    wait_for_rows(namespace, {"first": [22], "second": [22]}, LEASE_SECONDS + 2 * WATCH_SECONDS + 5)
    assert read_holder(cluster, watches) not in ("", holder)
    assert other.stop() == 0
    assert read_holder(cluster, watches) == ""


def read_holder(cluster: ApiServer, watches: Watches) -> str:
    return str(cluster.read("lease", f"{watches.installation}-watch", "-n", "moorline")["spec"]["holderIdentity"])


def test_a_restart_of_the_api_server_is_lived_through(cluster: ApiServer, watches: Watches, namespace: str) -> None:
    watch = watches.start()
    apply(cluster, namespace, "before", {"tcpPorts": [22]})
    wait_for_rows(namespace, {"before": [22]})
    cluster.pause()
    wait_for(lambda: "does not answer for the Lease" in watch.read_log(), "a line in the log")
    cluster.resume()
    apply(cluster, namespace, "after", {"tcpPorts": [22]})
    wait_for_rows(namespace, {"before": [22], "after": [22]}, 60)
    assert watch.process.poll() is None
    assert "Traceback" not in watch.read_log()


def test_it_uses_every_right_it_has_and_no_other(
    cluster: ApiServer, watches: Watches, namespace: str, kubeconfig: Path
) -> None:
    user = find_user(cluster, kubeconfig)
    since = cluster.mark()
    closed = cluster.make_namespace("closed")
    make_portal_tunnel(cluster, namespace)
    watch = watches.start()
    for group in (MOORLINE, INLETS):
        apply(cluster, closed, "prod", {"tcpPorts": [22]}, group)
        wait_for(lambda group=group: find_refusal(cluster, closed, "prod", group), "refused")
    cluster.kubectl("label", "tun", "prod", "-n", namespace, "moorline.dev/managed-by-")
    wait_for(lambda: find_reverts(cluster, namespace), "an Event")
    assert watch.stop() == 0  # which gives the Lease back
    requests = [request for request in cluster.list_requests(since, user) if not request.resource.startswith("/")]
    assert [request for request in requests if request.code == 403] == []
    granted = {
        (verb, group, resource)
        for role in load_rights("watch-tests", INLETS_TOO)
        for rule in role.get("rules", [])
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert {(request.verb, request.group, request.resource) for request in requests} == granted


def find_user(cluster: ApiServer, kubeconfig: Path) -> str:
    return cluster.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", kubeconfig=kubeconfig)


def test_an_installation_for_one_namespace_looks_at_no_other(
    cluster: ApiServer, watches: Watches, namespace: str
) -> None:
    scope = cluster.make_namespace("scope")
    kubeconfig = give_rights(cluster, "scoped-tests", {"tunnelsNamespace": scope})
    watches.start(MOORLINE_TUNNELS_NAMESPACE=scope, MOORLINE_KUBECONFIG=str(kubeconfig), MOORLINE_INLETS_COMPATIBLE="0")
    apply(cluster, namespace, "prod", {"tcpPorts": [22]})
    apply(cluster, scope, "prod", {"tcpPorts": [25060]})
    wait_for_rows(scope, {"prod": [25060]})
    assert find_rows(namespace) == {}
    cluster.kubectl("delete", "tun", "prod", "-n", scope)
    wait_for_rows(scope, {})
    requests = cluster.list_requests(0, find_user(cluster, kubeconfig))
    assert [request for request in requests if request.code == 403] == []
    assert {request.namespace for request in requests if request.resource.startswith("tunnels")} == {scope}
    assert [request for request in requests if request.resource == "namespaces"] == []


def test_a_group_that_the_cluster_does_not_know_is_waited_for_and_nothing_of_it_dropped(
    tmp_path: Path, settings: LazySettings
) -> None:
    if os.environ.get("MOORLINE_TEST_KUBECONFIG"):
        pytest.skip("the resource definitions of MOORLINE_TEST_KUBECONFIG are not ours to delete")
    programs = find_kubernetes_programs(("etcd", "kube-apiserver", "kubectl"))
    assert programs is not None
    definitions = {
        document["spec"]["group"]: json.dumps(document)
        for document in load(INLETS_TOO)
        if document["kind"] == "CustomResourceDefinition"
    }
    with ExitStack() as stack:
        (tmp_path / "cluster").mkdir()
        cluster = OwnApiServer(programs, tmp_path / "cluster")
        stack.callback(cluster.close)
        cluster.start()
        cluster.kubectl("create", "namespace", "moorline")
        namespace = cluster.make_namespace("acmeco", LABEL)
        watches = Watches(
            tmp_path,
            MOORLINE_INSTALLATION="moorline",
            MOORLINE_KUBECONFIG=str(cluster.kubeconfig),
            MOORLINE_INLETS_COMPATIBLE="1",
        )
        stack.callback(watches.close)
        install(cluster, definitions[MOORLINE], MOORLINE)
        first = watches.start()
        apply(cluster, namespace, "ours", {"tcpPorts": [22]})
        wait_for_rows(namespace, {"ours": [22]})
        assert f"no Tunnel resources of {INLETS}" in first.read_log()
        install(cluster, definitions[INLETS], INLETS)
        apply(cluster, namespace, "theirs", {"tcpPorts": [22]}, INLETS)
        # It would see that within a minute; a Lease that another one holds for a second makes it look at all anew.
        spec = json.dumps({"spec": {"holderIdentity": "another", "leaseDurationSeconds": 1}})
        cluster.kubectl("patch", "lease", "moorline-watch", "-n", "moorline", "--type=merge", "-p", spec)
        assert first.process.wait(timeout=SECONDS) == 1
        assert "another process leads" in first.read_log()
        assert (
            first.read_log()
            .splitlines()[-1]
            .endswith(f"The cluster now has Tunnel resources of {INLETS}. Start again to watch them.")
        )
        second = watches.start()
        wait_for_rows(namespace, {"ours": [22], "theirs": [22]})
        assert second.stop() == 0
        # Objects that cannot be looked for are not known to be gone.
        cluster.kubectl("delete", "crd", f"tunnels.{INLETS}")
        watches.start()
        apply(cluster, namespace, "later", {"tcpPorts": [22]})
        wait_for_rows(namespace, {"ours": [22], "theirs": [22], "later": [22]})


def install(cluster: ApiServer, definition: str, group: str) -> None:
    cluster.kubectl("apply", "--server-side", "-f", "-", input=definition)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=20s", f"crd/tunnels.{group}")
