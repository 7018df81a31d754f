"""What the images of the Dockerfile promise to whoever runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.mission.node import Node, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

MOORLINE, CLIENT = "localhost/moorline:dev", "localhost/moorline-client:dev"
RESTRICTED = {
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def namespace(node: Node) -> Iterator[str]:
    """A namespace that takes only pods of the strictest kind."""
    name = node.make_namespace("images", {"pod-security.kubernetes.io/enforce": "restricted"})
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")


def say(node: Node, namespace: str, name: str, **container: object) -> str:
    """Run a pod to its end and return what it said."""
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {"name": "main", "imagePullPolicy": "IfNotPresent", "securityContext": RESTRICTED, **container}
            ],
        },
    }
    node.kubectl("create", "-f", "-", input=json.dumps(document))
    ended = ("Succeeded", "Failed")
    wait_for(name, lambda: node.read("-n", namespace, "pod", name)["status"]["phase"] in ended, 60)
    return node.kubectl("-n", namespace, "logs", name)


def test_without_a_command_the_image_lists_its_roles(node: Node, namespace: str) -> None:
    said = say(node, namespace, "roles", image=MOORLINE)
    for role in ("portal", "gateway", "worker", "beat", "watch", "migration"):
        assert f"\n  {role} " in said


@pytest.mark.parametrize("image", [MOORLINE, CLIENT])
def test_an_image_has_no_compiler_and_no_package_manager_of_python(node: Node, namespace: str, image: str) -> None:
    look = (
        "id -u; command -v cc gcc g++ c++ make ld pip pip3; find /root/.cache /tmp -type f 2>/dev/null; python -m pip"
    )
    said = say(node, namespace, f"tools-{len(image)}", image=image, command=["sh", "-c", look])
    assert said.splitlines() == ["65532", "/opt/venv/bin/python: No module named pip"]


def test_a_user_that_the_cluster_chooses_runs_it_too(node: Node, namespace: str) -> None:
    who = "import getpass, os, celery, kopf, portal, tunnels; print(os.getuid(), getpass.getuser())"
    security = {**RESTRICTED, "runAsUser": 1000680000}
    said = say(node, namespace, "user", image=MOORLINE, command=["python", "-c", who], securityContext=security)
    assert said == "1000680000 moorline\n"


def test_the_client_image_is_the_client(node: Node, namespace: str) -> None:
    said = say(node, namespace, "help", image=CLIENT, args=["--help"])
    assert "--token-file" in said
    said = say(node, namespace, "server", image=CLIENT, command=["python", "-c", "import django"])
    assert "No module named 'django'" in said
