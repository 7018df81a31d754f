"""What counts as a difference, whose an object is, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import pytest

from portal.cluster.api import ApiRefused
from portal.cluster.apply import differs, explain_refusal, is_ours

SAME: list[tuple[Any, Any]] = [
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": None}, {"b": 2}),
    ({"a": None}, {"a": []}),
    ({"a": []}, {}),
    ({"a": {}}, {"a": None}),
    ([{"name": "a"}, {"name": "b"}], [{"name": "b", "x": 1}, {"name": "a"}]),
    ([2, 1], [1, 2]),
]
OTHER: list[tuple[Any, Any]] = [
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {}),
    ({"a": 1}, None),
    ({"a": None}, {"a": {"app": "else"}}),
    ({"a": []}, {"a": [1]}),
    ([{"name": "a"}], [{"name": "a"}, {"name": "b"}]),
    ([{"name": "a", "port": 1}], [{"name": "a", "port": 2}]),
    ({"a": "1"}, {"a": 1}),
]


@pytest.mark.parametrize(("desired", "live"), SAME)
def test_what_only_the_live_one_has_is_no_difference(desired: Any, live: Any) -> None:
    assert not differs(desired, live)


@pytest.mark.parametrize(("desired", "live"), OTHER)
def test_a_difference_is_seen(desired: Any, live: Any) -> None:
    assert differs(desired, live)


LABELS = {"moorline.dev/installation": "i", "moorline.dev/customer": "c", "moorline.dev/tunnel": "t"}


@pytest.mark.parametrize(
    ("labels", "manager", "ours"),
    [
        (LABELS, "moorline", True),
        (LABELS, "kubectl", True),
        ({}, "moorline", True),  # somebody took the labels away
        ({}, "kubectl", False),
        (LABELS | {"moorline.dev/installation": "other"}, "moorline", False),
        (LABELS | {"moorline.dev/tunnel": "other"}, "moorline", False),
    ],
)
def test_an_object_is_ours_by_its_labels_or_by_who_wrote_it(labels: dict[str, str], manager: str, ours: bool) -> None:
    live = {"metadata": {"labels": labels, "managedFields": [{"manager": manager}]}}
    assert is_ours(live, {"metadata": {"labels": LABELS}}) is ours


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (ApiRefused(403, "Forbidden", 'services is forbidden: User "x" cannot create'), "Forbidden"),
        (ApiRefused(403, "Forbidden", "exceeded quota: moorline, requested: count/services=1"), "QuotaExceeded"),
        (ApiRefused(403, "Forbidden", "no", ("NamespaceTerminating",)), "NamespaceTerminating"),
        (ApiRefused(404, "NotFound", 'namespaces "acmeco" not found'), "NamespaceMissing"),
        (ApiRefused(409, "Conflict", "changed"), "Conflict"),
        (ApiRefused(422, "Invalid", "spec.ports: too many"), "Invalid"),
    ],
)
def test_a_refusal_is_a_reason_and_a_sentence(refused: ApiRefused, reason: str) -> None:
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "acmeco", "name": "prod"}}
    problem = explain_refusal(refused, manifest)
    assert problem.reason == reason
    assert "Service acmeco/prod" in problem.message
