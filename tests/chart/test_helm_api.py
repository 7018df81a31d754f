"""Installing, upgrading, going back and uninstalling with a real API server, on which no controllers run.

The server is one of its own: definitions of resources are for a whole cluster, and here they come and go.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, Document, complete, find_helm, run_helm
from tests.chart.matrix import ROWS
from tests.cluster.apiserver import ApiServer, run_api_server

pytestmark = pytest.mark.api

DEFINITIONS = ["crd/tunnels.moorline.dev", "crd/tunnels.uplink.inlets.dev"]
WAIT_SECONDS = 20.0
MOMENT = "2026-01-01T00:00:00Z"

# The manifests that Moorline has to take as they are.
MANIFEST = """\
apiVersion: moorline.dev/v1alpha1
kind: Tunnel
metadata: {name: postgres-prod, namespace: NAMESPACE}
spec: {tcpPorts: [25060]}
status: {}
"""
INLETS_MANIFEST = """\
apiVersion: uplink.inlets.dev/v1alpha1
kind: Tunnel
metadata: {name: postgres-staging, namespace: NAMESPACE}
spec:
  licenseRef: {name: inlets-uplink-license, namespace: inlets}
  tcpPorts: [5432]
  upstreamDomains: [intranet.local]
  podAnnotations: {sidecar.istio.io/inject: "false"}
  nodeSelector: {kubernetes.io/arch: amd64}
  env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
  access: {from: [{namespaceSelector: {matchLabels: {team: data}}, podSelector: {}}]}
  tokenRef: {name: my-token}
  expiresAt: "2030-01-01T00:00:00Z"
status: {}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MOORLINE_TEST_KUBECONFIG", raising=False)
        with run_api_server(tmp_path_factory.mktemp("server")) as server:
            yield server


class Release:
    """A release named moorline in a namespace of its own."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server = server
        self.namespace = namespace

    def helm(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run helm for this release."""
        words = [verb, "moorline", *arguments, "--namespace", self.namespace]
        return run_helm(*words, kubeconfig=self.server.kubeconfig)

    def start(self, verb: str, values: Document, *arguments: str) -> subprocess.Popen[str]:
        """Start helm with the chart and some values, in a process that `finish` waits for."""
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=self.server.folder, delete=False) as file:
            json.dump(complete(values), file)
        words = [find_helm(), verb, "moorline", CHART, "--namespace", self.namespace, "--values", file.name, *arguments]
        return subprocess.Popen(
            [*words, "--kubeconfig", self.server.kubeconfig],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def apply(self, verb: str, values: Document, *arguments: str) -> str:
        """Install or upgrade and return what helm said.

        Raises:
            AssertionError: helm failed; the message is its.
        """
        code, said = finish(self.start(verb, values, *arguments))
        assert code == 0, said
        return said

    def read(self, *words: str) -> Any:
        """Return what `kubectl get` has of the namespace."""
        return self.server.read("--namespace", self.namespace, *words)

    def list_names(self, kind: str) -> list[str]:
        """Return the names of all objects of a kind."""
        return [item["metadata"]["name"] for item in self.read(kind)["items"]]

    def read_secrets(self) -> dict[str, str]:
        """Return the data of the Secret that the chart made."""
        data: dict[str, str] = self.read("secret", "moorline")["data"]
        return data

    def read_checksum(self) -> str:
        """Return by what the portal's pods notice that a secret of the values is another one."""
        pod = self.read("deployment", "moorline-portal")["spec"]["template"]
        checksum: str = pod["metadata"]["annotations"]["checksum/secrets"]
        return checksum

    def count_portals(self) -> int:
        """Return how many pods the Deployment of the portal asks for."""
        return int(self.read("deployment", "moorline-portal")["spec"]["replicas"])

    def write_status(self, thing: str, status: Document) -> None:
        """Write a status, as a controller would."""
        words = ("--namespace", self.namespace, "patch", thing, "--subresource=status", "--type=merge", "--patch")
        self.server.kubectl(*words, json.dumps({"status": status}))

    def let_postgres_run(self) -> None:
        """Say of the database that it is ready."""
        self.write_status("statefulset/moorline-postgres", {"replicas": 1, "readyReplicas": 1})


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process and return its exit code and what it said."""
    try:
        said, _ = process.communicate(timeout=WAIT_SECONDS)
    finally:
        process.kill()
    return process.returncode, said


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not in {WAIT_SECONDS:g} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def release(server: ApiServer) -> Iterator[Release]:
    release = Release(server, server.make_namespace("chart"))
    yield release
    release.helm("uninstall", "--ignore-not-found", "--no-hooks")
    server.kubectl("delete", "--ignore-not-found", *DEFINITIONS)


@pytest.mark.parametrize(
    "row", ["bare", "nginx", "external urls", "dedicated", "inlets", "one namespace", "everything"]
)
def test_the_api_server_takes_every_object(release: Release, row: str) -> None:
    if ROWS[row].get("tunnelsNamespace"):
        release.server.try_kubectl("create", "namespace", ROWS[row]["tunnelsNamespace"])
    release.apply("install", ROWS[row], "--dry-run=server")
    assert release.list_names("deployments") == []


def test_a_release_is_installed_upgraded_taken_back_and_uninstalled(release: Release) -> None:
    said = release.apply("install", {})
    assert "Make the first tunnel" in said
    secrets = release.read_secrets()
    assert set(secrets) == {"secret-key", "hop-secret", "admin-password", "postgres-password", "valkey-password"}

    release.apply("upgrade", {"portal": {"replicas": 3}, "admin": {"password": "correct horse battery"}})
    assert release.count_portals() == 3
    assert release.read_secrets() == secrets

    assert release.helm("rollback", "1").returncode == 0
    assert release.count_portals() == 1
    assert release.read_secrets() == secrets

    release.server.kubectl("apply", "-f", "-", input=MANIFEST.replace("NAMESPACE", release.namespace))
    uninstalled = release.helm("uninstall")
    assert uninstalled.returncode == 0, uninstalled.stderr
    for kind in ("deployments", "statefulsets", "services", "serviceaccounts", "roles", "ingresses", "networkpolicies"):
        assert release.list_names(kind) == [], kind
    assert release.read_secrets() == secrets
    assert release.list_names("tunnels.moorline.dev") == ["postgres-prod"]

    # Whoever installs it again finds everything as it was.
    release.apply("install", {})
    assert release.read_secrets() == secrets
    assert release.list_names("tunnels.moorline.dev") == ["postgres-prod"]


def test_pods_start_anew_when_the_values_hold_another_url(release: Release) -> None:
    values = ROWS["external urls"]
    release.apply("install", values, "--no-hooks")
    before = release.read_checksum()
    release.apply("upgrade", {**values, "portal": {"replicas": 3}}, "--no-hooks")
    assert release.read_checksum() == before, "the key that it is made with is kept"
    changed = {**values, "externalRedis": {"url": "rediss://:hidden@cache2.example.com:6379/0"}}
    release.apply("upgrade", changed, "--no-hooks")
    assert release.read_checksum() != before


def test_before_an_upgrade_the_database_is_brought_up_to_date(release: Release) -> None:
    release.apply("install", {})
    assert [name for name in release.list_names("jobs") if name.startswith("moorline-migration-")]
    release.let_postgres_run()
    upgrading = release.start("upgrade", {"portal": {"replicas": 3}})
    try:
        wait_for(lambda: "moorline-migration" in release.list_names("jobs"), "the migration of the upgrade")
        assert release.count_portals() == 1
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": MOMENT}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        times = {"startTime": MOMENT, "completionTime": MOMENT, "succeeded": 1}
        release.write_status("job/moorline-migration", {**times, "conditions": conditions})
    finally:
        code, said = finish(upgrading)
    assert code == 0, said
    assert release.count_portals() == 3
    assert release.list_names("jobs") == []


def test_an_upgrade_whose_migration_fails_changes_nothing(release: Release) -> None:
    release.apply("install", {})
    release.let_postgres_run()
    upgrading = release.start("upgrade", {"portal": {"replicas": 3}})
    try:
        wait_for(lambda: "moorline-migration" in release.list_names("jobs"), "the migration of the upgrade")
        conditions = [
            {"type": kind, "status": "True", "reason": "BackoffLimitExceeded", "lastTransitionTime": MOMENT}
            for kind in ("FailureTarget", "Failed")
        ]
        release.write_status("job/moorline-migration", {"startTime": MOMENT, "failed": 1, "conditions": conditions})
    finally:
        code, said = finish(upgrading)
    assert code != 0
    assert "pre-upgrade" in said
    assert release.count_portals() == 1
    assert "moorline-migration" in release.list_names("jobs"), "its log is what one needs now"


def test_an_upgrade_to_a_database_of_ones_own_does_not_migrate_the_old_one(release: Release) -> None:
    release.apply("install", {})
    release.let_postgres_run()
    release.apply("upgrade", ROWS["external urls"])
    (job,) = release.read("jobs")["items"]
    assert job["metadata"]["name"].startswith("moorline-migration-")
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    (url,) = [variable for variable in variables if variable["name"] == "MOORLINE_DATABASE_URL"]
    assert url["valueFrom"]["secretKeyRef"] == {"name": "moorline-external", "key": "database-url"}


def test_a_rollback_brings_back_the_bundled_database(release: Release) -> None:
    release.apply("install", {})
    secrets = release.read_secrets()
    release.let_postgres_run()
    release.apply("upgrade", ROWS["external urls"])
    assert release.list_names("statefulsets") == []
    assert release.helm("rollback").returncode == 0
    assert release.list_names("statefulsets") == ["moorline-postgres", "moorline-valkey"]
    assert release.read_secrets() == secrets


def test_the_definition_of_inlets_is_taken_over_with_its_resources(release: Release) -> None:
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "tunnels.uplink.inlets.dev"},
        "spec": {
            "group": "uplink.inlets.dev",
            "names": {"kind": "Tunnel", "plural": "tunnels"},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }
    release.server.kubectl("apply", "-f", "-", input=json.dumps(definition))
    release.server.kubectl("wait", "--for=condition=Established", "--timeout=20s", DEFINITIONS[1])
    release.server.kubectl("apply", "-f", "-", input=INLETS_MANIFEST.replace("NAMESPACE", release.namespace))
    code, said = finish(release.start("install", ROWS["inlets"]))
    assert code != 0
    assert "tunnels.uplink.inlets.dev" in said
    release.apply("install", ROWS["inlets"], "--take-ownership", "--force-conflicts")
    assert release.list_names("tunnels.uplink.inlets.dev") == ["postgres-staging"]
    (version,) = release.server.read(DEFINITIONS[1])["spec"]["versions"]
    assert "status" in version["subresources"]


def test_definitions_go_with_the_release_where_the_values_say_so(release: Release) -> None:
    release.apply("install", {"crds": {"keep": False}})
    assert release.helm("uninstall").returncode == 0
    with suppress(AssertionError):
        release.server.kubectl("wait", "--for=delete", "--timeout=10s", DEFINITIONS[0])
    assert "NotFound" in release.server.try_kubectl("get", DEFINITIONS[0]).stderr


@pytest.fixture(scope="module")
def definitions(server: ApiServer) -> Iterator[str]:
    """A namespace, in a cluster that knows the resources of both groups."""
    rendered = run_helm(
        *("template", "moorline", CHART, "--set", "domain=uplink.example.com,inletsCompatible=true"),
        *("--show-only", "templates/crds.yaml"),
    )
    server.kubectl("apply", "-f", "-", input=rendered.stdout)
    server.kubectl("wait", "--for=condition=Established", "--timeout=20s", *DEFINITIONS)
    yield server.make_namespace("tunnels")
    server.kubectl("delete", "--ignore-not-found", *DEFINITIONS)


def make_tunnel(namespace: str, spec: Document, name: str = "prod") -> str:
    """Return the manifest of a tunnel."""
    metadata = {"name": name, "namespace": namespace}
    return yaml.safe_dump({"apiVersion": "moorline.dev/v1alpha1", "kind": "Tunnel", "metadata": metadata, "spec": spec})


def test_the_manifests_are_taken_and_shown(server: ApiServer, definitions: str) -> None:
    for manifest in (MANIFEST, INLETS_MANIFEST):
        server.kubectl("apply", "-f", "-", input=manifest.replace("NAMESPACE", definitions))
    seen = server.read("--namespace", definitions, "tunnels.uplink.inlets.dev", "postgres-staging")["spec"]
    assert seen == {**yaml.safe_load(INLETS_MANIFEST)["spec"], "tokenRef": {"name": "my-token", "key": "token"}}

    conditions = [
        {"type": kind, "status": status, "reason": "Test", "message": "", "lastTransitionTime": MOMENT}
        for kind, status in (("Connected", "False"), ("Provisioned", "True"))
    ]
    status = {"observedGeneration": 1, "sessions": 0, "conditions": conditions}
    patch = ("patch", "tun", "postgres-prod", "--subresource=status", "--type=merge", "--patch")
    server.kubectl("--namespace", definitions, *patch, json.dumps({"status": status}))
    table = server.kubectl("get", "tun", "--all-namespaces").splitlines()
    assert table[0].split() == ["NAMESPACE", "NAME", "PORTS", "DOMAINS", "CONNECTED", "READY", "AGE"]
    assert [row.split()[:5] for row in table[1:]] == [[definitions, "postgres-prod", "[25060]", "False", "True"]]
    inlets = server.kubectl("get", "tunnels.uplink.inlets.dev", "--all-namespaces").splitlines()
    assert inlets[1].split()[:4] == [definitions, "postgres-staging", "[5432]", '["intranet.local"]']


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"tcpPorts": [0]}, "spec.tcpPorts[0]: Invalid value: 0: a port is a number from 1 to 65535"),
        ({"tcpPorts": [70000]}, "a port is a number from 1 to 65535"),
        ({"tcpPorts": [8000]}, "port 8000 is taken by the tunnel's HTTP; choose another one"),
        ({"tcpPorts": [5432, 22, 5432]}, "spec.tcpPorts: Invalid value: a port is listed twice; list each port once"),
        ({"tcpPorts": ["http"]}, "spec.tcpPorts[0] in body must be of type integer"),
        ({"tcpPorts": list(range(1, 202))}, "must have at most 200 items"),
        ({"upstreamDomains": ["Intranet.local"]}, "this is no host name in lower case"),
        ({"upstreamDomains": ["a.local", "a.local"]}, 'spec.upstreamDomains[1]: Duplicate value: "a.local"'),
        ({"tokenRef": {"key": "token"}}, "spec.tokenRef.name: Required value"),
        ({"access": {"from": [{}]}}, "give a namespaceSelector, a podSelector or both"),
        ({"expiresAt": "tomorrow"}, "spec.expiresAt in body must be of type date-time"),
        ({"tcpPort": [5432]}, 'unknown field "spec.tcpPort"'),
    ],
)
def test_a_wrong_tunnel_is_refused_with_a_sentence(
    server: ApiServer, definitions: str, spec: Document, sentence: str
) -> None:
    refused = server.try_kubectl("apply", "-f", "-", input=make_tunnel(definitions, spec))
    assert refused.returncode != 0
    assert sentence in refused.stderr


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "1prod",
            "metadata.name: Invalid value: the name becomes the name of a Service: use 1 to 63 lower-case letters",
        ),
        ("prod.eu", "the name becomes the name of a Service"),
        ("p" * 64, "the name becomes the name of a Service"),
        ("gateway", "metadata.name: Invalid value: the name is reserved; choose another one"),
        ("kube-dns", "the name is reserved; choose another one"),
    ],
)
def test_a_name_that_cannot_be_a_service_is_refused(
    server: ApiServer, definitions: str, name: str, sentence: str
) -> None:
    refused = server.try_kubectl("apply", "-f", "-", input=make_tunnel(definitions, {"tcpPorts": [22]}, name))
    assert refused.returncode != 0
    assert sentence in refused.stderr


def test_as_many_ports_and_host_names_as_the_portal_allows_are_taken(server: ApiServer, definitions: str) -> None:
    label = "a" * 60
    domains = [f"{label}{number:03}.{'.'.join([label] * 3)}" for number in range(200)]
    spec = {"tcpPorts": list(range(1, 201)), "upstreamDomains": domains}
    server.kubectl("apply", "-f", "-", input=make_tunnel(definitions, spec, "full"))
    server.kubectl("--namespace", definitions, "delete", "tun", "full")


def test_a_tunnel_without_ports_and_a_name_of_a_digit_at_its_end_are_taken(server: ApiServer, definitions: str) -> None:
    server.kubectl("apply", "-f", "-", input=make_tunnel(definitions, {}, "a-1"))
    server.kubectl("--namespace", definitions, "delete", "tun", "a-1")
