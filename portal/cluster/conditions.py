"""Conditions: how a tunnel is, in the form that Kubernetes gives them; pure functions.

Each has a type, a status, a reason in one word, a sentence for people, the generation it was seen for and the time of
its last change of status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from portal.cluster.apply import Problem
from portal.cluster.spec import Standing, TunnelSpec

Condition = dict[str, Any]

TYPES: Final = ("Accepted", "Provisioned", "Connected", "Degraded")
STANDINGS: Final = {
    Standing.DISABLED: "The tunnel is disabled: no client may connect.",
    Standing.EXPIRED: "The tunnel has expired: no client may connect.",
    Standing.SUSPENDED: "The customer is suspended: no client may connect.",
}
TOLD: Final = 3  # problems of one condition that are told in full
UNREACHABLE: Final = "ClusterUnreachable"


class Verdict(NamedTuple):
    """What a condition says."""

    status: str
    reason: str
    message: str


def find_conditions(
    tunnel: TunnelSpec,
    problems: Sequence[Problem],
    before: Iterable[Mapping[str, Any]],
    now: datetime,
    *,
    in_place: str,
    refusal: Mapping[str, str] | None = None,
) -> list[Condition]:
    """Say how a tunnel is.

    Args:
        problems: why not all that is desired is in place.
        before: its conditions so far; a status that stays keeps the time of its change.
        in_place: the sentence for when all of it is.
        refusal: the reason and the message of a change that a custom resource asks for and could not be taken.
    """
    unreachable = [problem for problem in problems if problem.reason == UNREACHABLE]
    known = {condition["type"]: condition for condition in before}
    accepted = Verdict("True", "Accepted", "What is desired is understood.")
    if refusal:
        accepted = Verdict("False", refusal["reason"], refusal["message"])
    provisioned, degraded = Verdict("True", "Provisioned", in_place), Verdict("False", "AsDesired", "Nothing is wrong.")
    if problems:
        provisioned, degraded = (Verdict(status, problems[0].reason, _tell(problems)) for status in ("False", "True"))
    if unreachable and "Provisioned" in known:
        # What is in place stays in place while nobody can look.
        last = known["Provisioned"]
        provisioned = Verdict(last["status"], last["reason"], last["message"])
    found = zip(TYPES, (accepted, provisioned, _connected(tunnel), degraded), strict=True)
    return [_make_condition(kind, verdict, tunnel.generation, known.get(kind), now) for kind, verdict in found]


def _connected(tunnel: TunnelSpec) -> Verdict:
    if tunnel.sessions:
        gateways = len(tunnel.endpoints)
        count = f"{tunnel.sessions} session{'s' * (tunnel.sessions != 1)}"
        where = f", answered by {gateways} gateway{'s' * (gateways != 1)}" if gateways else ""
        return Verdict("True", "Connected", f"The client has {count}{where}.")
    if tunnel.standing in STANDINGS:
        return Verdict("False", tunnel.standing.value, STANDINGS[tunnel.standing])
    return Verdict("False", "NoClient", "No client is connected.")


def _tell(problems: Sequence[Problem]) -> str:
    told = " ".join(problem.message for problem in problems[:TOLD])
    more = len(problems) - TOLD
    return told + (f" And {more} more." if more > 0 else "")


def _make_condition(
    kind: str, verdict: Verdict, generation: int, before: Mapping[str, Any] | None, now: datetime
) -> Condition:
    stays = before is not None and before["status"] == verdict.status
    since = before["lastTransitionTime"] if before is not None and stays else now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, **verdict._asdict(), "observedGeneration": generation, "lastTransitionTime": since}
