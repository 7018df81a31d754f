"""Moorline, installed once by helm in a whole node, with a customer outside of it and an application inside."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chart.helm import CHART
from tests.cluster.mission.customer import Client, run_finance
from tests.cluster.mission.node import Node, find_node, wait_for

RELEASE = NAMESPACE = "moorline"
CUSTOMER = "acmeco"
APPLICATION = "application"
DEFINITIONS = ["crd/tunnels.moorline.dev", "crd/tunnels.uplink.inlets.dev"]
VALUES = Path(__file__).with_name("values.yaml")

# The manifest that the README shows, and the same for the name of the README's psql line.
MANIFEST = """\
apiVersion: moorline.dev/v1alpha1
kind: Tunnel
metadata: {name: postgres-prod, namespace: acmeco}
spec: {tcpPorts: [25060]}
status: {}
"""
PROD = MANIFEST.replace("postgres-prod", "prod")
COMPATIBLE = """\
apiVersion: uplink.inlets.dev/v1alpha1
kind: Tunnel
metadata: {name: legacy, namespace: acmeco}
spec:
  licenseRef: {name: inlets-uplink-license, namespace: moorline}
  tcpPorts: [25060]
"""
APPLICATION_POD = """\
apiVersion: v1
kind: Pod
metadata: {name: shell, namespace: application}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: shell, image: "localhost/postgres:17", imagePullPolicy: IfNotPresent, command: [sleep, infinity]}
"""


@dataclass(frozen=True)
class Installation:
    """What helm has installed."""

    node: Node
    url: str  # where clients dial: the gateways' Service

    def gateways(self) -> dict[str, str]:
        """Return the addresses of the running gateway pods by their names."""
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=gateway"
        pods = self.node.read("--namespace", NAMESPACE, "pods", "--selector", selector)["items"]
        return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods if "podIP" in pod["status"]}

    def endpoints(self, tunnel: str) -> list[str]:
        """Return the addresses that the tunnel's Service leads to."""
        slices = self.node.read(
            *("--namespace", CUSTOMER, "endpointslices", "--selector", f"kubernetes.io/service-name={tunnel}")
        )
        endpoints = [endpoint for found in slices["items"] for endpoint in found["endpoints"] or []]
        return sorted(address for endpoint in endpoints for address in endpoint["addresses"])

    def condition(self, tunnel: str, kind: str, resource: str = "tunnels.moorline.dev") -> str:
        """Return the status of one condition of a Tunnel resource."""
        conditions = self.node.read("--namespace", CUSTOMER, resource, tunnel).get("status", {}).get("conditions", [])
        return next((str(condition["status"]) for condition in conditions if condition["type"] == kind), "")

    def manage(self, *words: str) -> str:
        """Run a command of manage.py in the portal's pod, as staff do."""
        ended = self.node.run(NAMESPACE, f"deployment/{RELEASE}-portal", "python", "manage.py", *words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def token(self, tunnel: str) -> str:
        """Return the token in the Secret of a tunnel."""
        secret = self.node.read("--namespace", CUSTOMER, "secret", tunnel)
        return base64.b64decode(secret["data"]["token"]).decode()

    def psql(self, host: str, *words: str, port: int = 25060, timeout: float = 30.0) -> str:
        """Ask the customer's database from the application's pod."""
        command = ["psql", "-U", "postgres", "-h", host, "-p", str(port), "-d", "finance", "-XAt", *words]
        ended = self.node.run(APPLICATION, "shell", "env", "PGCONNECT_TIMEOUT=5", *command, timeout=timeout)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A whole cluster."""
    found = find_node(tmp_path_factory.mktemp("node"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def installation(node: Node, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """Moorline as the chart installs it, with two gateways, and the pod of an application."""
    remove(node)
    try:
        node.kubectl("create", "namespace", APPLICATION)
        node.kubectl("create", "-f", "-", input=APPLICATION_POD)
        words = ["--namespace", NAMESPACE, "--create-namespace", "--values", VALUES, "--wait", "--timeout", "240s"]
        try:
            node.helm("install", RELEASE, CHART, *words)
        except AssertionError:
            print(explain(node))
            raise
        node.kubectl("-n", APPLICATION, "wait", "--for=condition=Ready", "pod/shell", "--timeout=60s", timeout=70)
        service = node.read("--namespace", NAMESPACE, "service", f"{RELEASE}-gateway")
        yield Installation(node, f"ws://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}")
    finally:
        if request.session.testsfailed:
            print(explain(node))
        remove(node)


@pytest.fixture(scope="module")
def acmeco(installation: Installation) -> Installation:
    """The customer's namespace with the two tunnels of the README, as kubectl applies them."""
    node = installation.node
    node.kubectl("create", "namespace", CUSTOMER)
    node.kubectl("label", "namespace", CUSTOMER, "moorline.dev/uplink=1")
    node.kubectl("apply", "-f", "-", input=MANIFEST)
    node.kubectl("apply", "-f", "-", input=PROD)
    wait_for("prod is provisioned", lambda: installation.condition("prod", "Provisioned") == "True", 30)
    wait_for("postgres-prod too", lambda: installation.condition("postgres-prod", "Provisioned") == "True", 30)
    return installation


@pytest.fixture(scope="module")
def finance(node: Node) -> Iterator[str]:
    """The address of the customer's database."""
    with run_finance(node) as address:
        yield address


@pytest.fixture
def client(acmeco: Installation, finance: str, tmp_path: Path) -> Iterator[Client]:
    """The customer's client of the tunnel `prod`, not started; stopped at the end, and with its sessions gone."""
    token = wait_for("the Secret of prod", lambda: acmeco.token("prod"), 10)
    client = Client(acmeco.node, f"{acmeco.url}/{CUSTOMER}/prod", token, [f"25060={finance}"], tmp_path / "client.log")
    yield client
    client.stop()
    wait_for("no sessions", lambda: acmeco.endpoints("prod") == [], 10)


def remove(node: Node) -> None:
    """Remove what an earlier run has left, or this one."""
    node.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait", "--timeout", "120s")
    node.kubectl("delete", "--ignore-not-found", *DEFINITIONS, timeout=60)
    names = [NAMESPACE, CUSTOMER, APPLICATION]
    node.kubectl("delete", "namespace", "--ignore-not-found", "--timeout=120s", *names, timeout=130)


def explain(node: Node) -> str:
    """Return what pods, events and logs say, for whoever reads that a test has failed."""
    asked = [
        ["get", "pods,tunnels.moorline.dev,services,endpointslices", "--all-namespaces", "--output", "wide"],
        ["get", "events", "--all-namespaces", "--sort-by", ".lastTimestamp"],
        *(
            [
                "--namespace",
                NAMESPACE,
                "logs",
                "--prefix",
                "--tail=40",
                "--selector",
                f"app.kubernetes.io/component={role}",
            ]
            for role in ("migration", "gateway", "worker", "beat", "watch", "portal")
        ),
    ]
    return "\n\n".join(f"{ended.stdout}{ended.stderr}" for ended in (node.try_kubectl(*words) for words in asked))
