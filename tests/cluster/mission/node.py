"""The node that the mission is shown on: the one of tests/cluster/node, or the cluster of MOORLINE_TEST_KUBECONFIG."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from tests.chart.helm import find_helm
from tests.cluster.apiserver import ApiServer, find_kubernetes_programs

Answer = TypeVar("Answer")
SCRIPTS = Path(__file__).resolve().parent.parent / "node"
CACHE = Path(os.environ.get("MOORLINE_CLUSTER") or "~/.cache/moorline-cluster").expanduser()
HELM_SECONDS = 300.0


class Node(ApiServer):
    """A whole cluster: pods run, Services answer.

    Args:
        kubeconfig: of a cluster administrator.
        folder: for files that go away with the tests.
        outside: what comes before a command so that it reaches pods and Services without being in a pod.
    """

    def __init__(self, kubeconfig: Path, folder: Path, outside: list[str | Path]) -> None:
        programs = find_kubernetes_programs(["kubectl"])
        assert programs is not None, "tests/cluster/node/build makes kubectl"
        super().__init__(kubeconfig, [*outside, programs / "kubectl"], folder)
        self.outside = outside

    def helm(self, *arguments: str | Path) -> str:
        """Run helm and return what it printed.

        Raises:
            AssertionError: helm failed; the message is what it said.
        """
        command = [*self.outside, find_helm(), "--kubeconfig", self.kubeconfig, *arguments]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HELM_SECONDS, check=False
        )
        assert ended.returncode == 0, f"{ended.stderr}\n{ended.stdout}"
        return ended.stdout

    def run(self, namespace: str, pod: str, *command: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod and return what came of it."""
        return self.try_kubectl("--namespace", namespace, "exec", "-i", pod, "--", *command, timeout=timeout)

    def start(self, namespace: str, pod: str, *command: str) -> subprocess.Popen[str]:
        """Start a command in a pod; its output is in the pipe."""
        words = ["--kubeconfig", self.kubeconfig, "--namespace", namespace, "exec", pod, "--", *command]
        return subprocess.Popen(
            [*self._kubectl, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def find_node(folder: Path) -> Node:
    """Return the node that is up; skip where none is, and fail instead with MOORLINE_REQUIRE_ALL."""
    named = os.environ.get("MOORLINE_TEST_KUBECONFIG")
    if named:
        return Node(Path(named).resolve(), folder, [])
    up = subprocess.run([SCRIPTS / "in", "--net", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if up.returncode == 0:
        return Node(CACHE / "run" / "admin.conf", folder, [SCRIPTS / "in", "--net"])
    missing = "no Kubernetes node is up: make test-cluster starts one around these tests"
    if os.environ.get("MOORLINE_REQUIRE_ALL"):
        pytest.fail(missing)
    pytest.skip(missing)


def wait_for(what: str, check: Callable[[], Answer | None], seconds: float, pause: float = 0.1) -> Answer:
    """Return the first answer of `check` that is true.

    Raises:
        AssertionError: there was none within so many seconds; the last refusal is in the message.
    """
    deadline = time.monotonic() + seconds
    refusal: object = "no"
    while time.monotonic() < deadline:
        try:
            answer = check()
        except (AssertionError, LookupError) as error:
            refusal = error
        else:
            if answer:
                return answer
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds:g} s ({refusal})")


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a process, at once where asking is not enough."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
        return
    process.kill()
    process.wait(timeout=10)
