"""The rights of a worker, seen from the other side: which of them were used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.apiserver import ApiServer
from tests.cluster.installation import WORKER

pytestmark = pytest.mark.api


def test_the_chart_gives_a_worker_no_right_that_it_does_not_use(cluster: ApiServer, worker_kubeconfig: Path) -> None:
    """By its name this runs behind the tests of this folder that reconcile: together they use every right."""
    used = {
        (request.group, request.resource, request.verb)
        for request in cluster.list_requests(0, user=WORKER)
        if request.code < 400
    }
    rules = cluster.read("clusterrole", "moorline-worker")["rules"]
    given = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given - used == set()
    assert {"services", "endpointslices"} <= {resource for _, resource, _ in used}
