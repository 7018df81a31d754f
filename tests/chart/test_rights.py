"""What worker and watch may do in Kubernetes: exactly this, and nobody else anything."""

from __future__ import annotations

from typing import Any

from tests.chart.helm import Document, load
from tests.chart.matrix import load_row

WRITE = ["list", "create", "patch", "delete"]
Rights = dict[tuple[str, str, str], list[str]]


def list_worker_rights(namespace: str, groups: list[str]) -> Rights:
    """Return what the worker may do where customers are."""
    rights: Rights = {
        (namespace, "", "services"): WRITE,
        (namespace, "discovery.k8s.io", "endpointslices"): WRITE,
        (namespace, "", "resourcequotas"): WRITE,
        (namespace, "networking.k8s.io", "networkpolicies"): WRITE,
        (namespace, "", "secrets"): ["get", "create", "patch", "delete"],
    }
    for group in groups:
        rights[namespace, group, "tunnels"] = ["get", *WRITE] if group == "moorline.dev" else ["list"]
        rights[namespace, group, "tunnels/status"] = ["patch"]
    return rights


def list_watch_rights(namespace: str, groups: list[str]) -> Rights:
    """Return what the watch may do where customers are, and with the lease that says who leads."""
    rights: Rights = {
        (namespace, "", "events"): ["create"],
        ("moorline", "coordination.k8s.io", "leases"): ["get", "create", "patch"],
    }
    for group in groups:
        rights[namespace, group, "tunnels"] = ["get", "list", "watch"]
        rights[namespace, group, "tunnels/status"] = ["patch"]
    return rights


OWN = ["moorline.dev"]
BOTH = ["moorline.dev", "uplink.inlets.dev"]
WORKER_NAMESPACES = {("*", "", "namespaces"): ["get", *WRITE]}
WATCH_NAMESPACES = {("*", "", "namespaces"): ["get", "list", "watch"]}


def list_rights(documents: list[Document]) -> dict[str, Rights]:
    """Return what each service account may do: (namespace or *, group, resource) to verbs."""
    roles: dict[tuple[str, Any, str], Document] = {
        (document["kind"], document["metadata"].get("namespace"), document["metadata"]["name"]): document
        for document in documents
        if document["kind"] in ("Role", "ClusterRole")
    }
    bound: dict[str, Rights] = {}
    for binding in documents:
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            namespace = binding["metadata"].get("namespace")
            assert binding["roleRef"]["kind"] == binding["kind"].removesuffix("Binding")
            role = roles.pop((binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"]))
            (subject,) = binding["subjects"]
            assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "moorline")
            rights = bound.setdefault(subject["name"], {})
            for rule in role["rules"]:
                assert set(rule) == {"apiGroups", "resources", "verbs"}
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        key = (namespace or "*", group, resource)
                        assert key not in rights
                        rights[key] = rule["verbs"]
    assert roles == {}, "a role is bound to nobody"
    return bound


def test_in_the_whole_cluster() -> None:
    assert list_rights(load()) == {
        "moorline-worker": list_worker_rights("*", OWN) | WORKER_NAMESPACES,
        "moorline-watch": list_watch_rights("*", OWN) | WATCH_NAMESPACES,
    }


def test_with_resources_of_inlets_too() -> None:
    assert list_rights(load_row("inlets")) == {
        "moorline-worker": list_worker_rights("*", BOTH) | WORKER_NAMESPACES,
        "moorline-watch": list_watch_rights("*", BOTH) | WATCH_NAMESPACES,
    }


def test_in_one_namespace_nothing_is_for_the_whole_cluster() -> None:
    documents = load_row("one namespace")
    assert [d for d in documents if d["kind"].startswith("ClusterRole")] == []
    policies = {("moorline", "networking.k8s.io", "networkpolicies"): WRITE}
    assert list_rights(documents) == {
        "moorline-worker": list_worker_rights("acmeco", BOTH) | policies,
        "moorline-watch": list_watch_rights("acmeco", BOTH),
    }


def test_roles_can_be_left_to_somebody_else() -> None:
    assert list_rights(load_row("little")) == {}
