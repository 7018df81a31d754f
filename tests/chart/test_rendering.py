"""Whatever way it is installed, what the chart makes is valid, in the oldest Kubernetes that it takes and a new one."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.chart.helm import CHART, ROOT, Document, load, pick, render, run_helm
from tests.chart.kinds import SPECS, describe
from tests.chart.matrix import ROWS, load_row

OLDEST, NEW = "1.29", "1.36"


@functools.cache
def find_fault(version: str, text: str) -> str | None:
    """Return what is wrong with an object of Kubernetes; most objects are the same in many rows."""
    try:
        kubernetes_validate.validate(json.loads(text), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{list(error.path)}: {error.message}"
    return None


@pytest.mark.parametrize("row", ROWS)
def test_every_object_is_valid(row: str) -> None:
    for document in load_row(row):
        name = f"{document['kind']} {document['metadata']['name']}"
        schema = describe(document["apiVersion"], document["kind"])
        if schema is not None:
            jsonschema.validate(document, schema)
            continue
        # What the oldest one takes the new one takes too, but for what was removed: one row that has all of it tells.
        for version in (OLDEST, NEW) if row == "everything" else (OLDEST,):
            fault = find_fault(version, json.dumps(document, sort_keys=True))
            assert fault is None, f"{name} in Kubernetes {version}: {fault}"


def test_a_fault_is_found() -> None:
    service = pick(load(), "Service", "moorline-portal")
    service["spec"]["prots"] = service["spec"].pop("ports")
    assert "prots" in str(find_fault(OLDEST, json.dumps(service)))


def test_every_kind_of_others_is_made_by_some_row() -> None:
    made = {(document["apiVersion"], document["kind"]) for row in ROWS for document in load_row(row)}
    assert set(SPECS) <= made


@pytest.mark.parametrize("row", ROWS)
def test_every_object_is_named_once_placed_and_labelled(row: str) -> None:
    documents = load_row(row)
    identities = [
        (d["apiVersion"], d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in documents
    ]
    assert len(set(identities)) == len(identities)
    for document in documents:
        metadata = document["metadata"]
        cluster_wide = document["kind"] in ("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")
        assert ("namespace" not in metadata) == cluster_wide, metadata["name"]
        assert metadata["labels"]["app.kubernetes.io/instance"] == "moorline"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        for label, value in ROWS[row].get("commonLabels", {}).items():
            assert metadata["labels"][label] == value


def test_the_chart_passes_the_strict_lint() -> None:
    linted = run_helm("lint", "--strict", CHART, "--set", "domain=uplink.example.com")
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_version_of_the_chart_is_that_of_moorline() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'\nversion = "{chart["appVersion"]}"\n' in (ROOT / "pyproject.toml").read_text()
    assert OLDEST in chart["kubeVersion"]


def test_names_stay_short_enough_for_a_long_release() -> None:
    values = {"dedicatedGateways": [{"name": "a" * 20, "customers": ["acmeco"]}]}
    for document in load(values, name="a-rather-long-name-of-a-release-that-helm-takes"):
        assert len(document["metadata"]["name"]) <= 63, document["metadata"]["name"]


def test_a_release_may_be_named_like_a_number() -> None:
    labels = {type(value) for document in load(name="123") for value in document["metadata"]["labels"].values()}
    assert labels == {str}


def test_the_notes_say_the_next_three_commands() -> None:
    notes = render(notes=True).partition("NOTES:")[2]
    commands = [line.strip() for line in notes.splitlines() if line.lstrip().startswith("kubectl")]
    assert [command.split()[:4] for command in commands] == [
        ["kubectl", "-n", "moorline", "rollout"],
        ["kubectl", "-n", "moorline", "get"],
        ["kubectl", "apply", "-f", "-"],
        ["kubectl", "-n", "acmeco", "wait"],
        ["kubectl", "-n", "acmeco", "get"],
    ]
    assert "sign in at https://uplink.example.com/admin/" in notes
    assert "default certificate" in notes


def test_what_the_notes_have_one_paste_makes_a_tunnel(tmp_path: Path) -> None:
    """The command is run as it is printed, by a shell and with a kubectl that keeps what it is given."""
    notes = render(notes=True).partition("NOTES:")[2]
    start = notes.index("kubectl apply")
    command = notes[start : notes.index("\n", notes.index("\nEOF", start) + 1)]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncat > {tmp_path}/applied\n")
    kubectl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    applied = list(yaml.safe_load_all((tmp_path / "applied").read_text()))
    assert [one["kind"] for one in applied] == ["Namespace", "Tunnel"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tls": {"enabled": False}}, "tokens travel in the clear"),
        ({"ingress": {"type": "none"}}, "Lead uplink.example.com to the Services"),
        ({"tunnelsNamespace": "acmecorp"}, "the first tunnel, of the customer acmecorp,"),
    ],
)
def test_the_notes_say_what_is_special(values: Document, sentence: str) -> None:
    assert sentence in render(values, notes=True).partition("NOTES:")[2]


def test_helm_test_asks_every_service_that_clients_and_browsers_come_to() -> None:
    documents = load_row("dedicated")
    pod = pick(documents, "Pod", "moorline-test")
    services = pod["spec"]["containers"][0]["args"][1:]
    assert services == ["moorline-portal", "moorline-gateway", "moorline-gateway-acme", "moorline-gateway-globex"]
    for service in services:
        pick(documents, "Service", service)
    compile(pod["spec"]["containers"][0]["args"][0], "test", "exec")
