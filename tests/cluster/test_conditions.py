from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from portal.cluster.apply import Problem
from portal.cluster.conditions import Condition, find_conditions
from portal.cluster.spec import Endpoint, Standing
from tests.cluster.test_render import PROD

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
PROBLEM = Problem("QuotaExceeded", "No room.")
SILENT = Problem("ClusterUnreachable", "Nobody answers.")


def find(
    *problems: Problem, before: list[Condition] | None = None, later: int = 0, **changes: object
) -> list[Condition]:
    tunnel = replace(PROD, **changes)  # type: ignore[arg-type]
    now = NOW + timedelta(seconds=later)
    return find_conditions(tunnel, problems, before or [], now, in_place="All is in place.")


def words(conditions: list[Condition]) -> dict[str, str]:
    return {one["type"]: f"{one['status']} {one['reason']}: {one['message']}" for one in conditions}


def test_it_works() -> None:
    assert find(sessions=1, endpoints=(Endpoint("g", "10.9.0.1"),)) == [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": 3,
            "lastTransitionTime": "2026-11-24T12:00:00Z",
        }
        for kind, status, reason, message in [
            ("Accepted", "True", "Accepted", "What is desired is understood."),
            ("Provisioned", "True", "Provisioned", "All is in place."),
            ("Connected", "True", "Connected", "The client has 1 session, answered by 1 gateway."),
            ("Degraded", "False", "AsDesired", "Nothing is wrong."),
        ]
    ]


def test_problems_are_told_and_many_are_counted() -> None:
    found = words(find(PROBLEM, SILENT))
    assert found["Provisioned"] == "False QuotaExceeded: No room. Nobody answers."
    found = words(find(PROBLEM, PROBLEM, PROBLEM, SILENT))
    assert found["Degraded"] == "True QuotaExceeded: No room. No room. No room. And 1 more."


def test_what_is_in_place_stays_while_nobody_can_look() -> None:
    found = words(find(SILENT, before=find()))
    assert found["Provisioned"] == "True Provisioned: All is in place."
    assert found["Degraded"] == "True ClusterUnreachable: Nobody answers."
    assert words(find(SILENT))["Provisioned"].startswith("False ClusterUnreachable")


def test_a_status_that_stays_keeps_the_time_of_its_change() -> None:
    first = find()
    second = find(before=first, later=60, sessions=1)
    times = {one["type"]: one["lastTransitionTime"] for one in second}
    assert times == {
        "Accepted": "2026-11-24T12:00:00Z",
        "Provisioned": "2026-11-24T12:00:00Z",
        "Connected": "2026-11-24T12:01:00Z",
        "Degraded": "2026-11-24T12:00:00Z",
    }


@pytest.mark.parametrize("standing", [Standing.DISABLED, Standing.EXPIRED, Standing.SUSPENDED])
def test_a_tunnel_that_lets_nobody_in_says_why_nobody_is_connected(standing: Standing) -> None:
    assert words(find(standing=standing))["Connected"].startswith(f"False {standing.value}: The ")
    assert words(find(standing=standing, sessions=1))["Connected"].startswith("True ")


def test_a_change_that_was_not_taken_is_told() -> None:
    refusal = {"reason": "NameTaken", "message": "The name is taken."}
    found = find_conditions(PROD, [], [], NOW, in_place="", refusal=refusal)
    assert words(found)["Accepted"] == "False NameTaken: The name is taken."
