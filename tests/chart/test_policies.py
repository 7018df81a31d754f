"""Who may reach which pod."""

from __future__ import annotations

from tests.chart.helm import Document, load, pick_kind
from tests.chart.matrix import PEER, list_pods, load_row, matches

PORTS = (5432, 6379, 8000, 8001, 8080, 9090, 20000, 25060)
ANYBODY = {"app": "psql"}


def may_reach(documents: list[Document], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Say whether a pod with some labels, of this namespace, may reach a port of another one."""
    policies = [
        policy["spec"]
        for policy in pick_kind(documents, "NetworkPolicy").values()
        if matches(policy["spec"]["podSelector"], target)
    ]
    assert policies, "no policy is for this pod"
    for rule in (rule for policy in policies for rule in policy["ingress"]):
        peers = rule.get("from")
        known = peers is None or any(
            "namespaceSelector" not in peer and matches(peer["podSelector"], source) for peer in peers
        )
        if known and port in [part["port"] for part in rule["ports"]]:
            return True
    return False


def list_open_ports(documents: list[Document], source: str | None) -> dict[str, list[int]]:
    """Return the ports that a pod, or a stranger, reaches on each pod; those with none are left out."""
    pods = {name.split()[1]: pod["metadata"]["labels"] for name, pod in list_pods(documents).items()}
    labels = pods[source] if source else ANYBODY
    reach = {
        name: [port for port in PORTS if may_reach(documents, labels, target, port)] for name, target in pods.items()
    }
    return {name: ports for name, ports in reach.items() if ports}


def load_without_test(row: str) -> list[Document]:
    """Return a row without its test pod, which no policy is for."""
    return [document for document in load_row(row) if document["kind"] != "Pod"]


def test_strangers_reach_the_web_ports_only() -> None:
    # Ports of tunnels are opened by policies that the worker keeps, one for each, never by the chart.
    assert list_open_ports(load_without_test("dedicated"), None) == {
        "moorline-portal": [8000],
        "moorline-gateway": [8000],
        "moorline-gateway-acme": [8000],
        "moorline-gateway-globex": [8000],
    }


def test_gateways_reach_each_other_and_the_stores() -> None:
    hop = [8000, 8001]
    assert list_open_ports(load_without_test("dedicated"), "moorline-gateway-acme") == {
        "moorline-portal": [8000],
        "moorline-gateway": hop,
        "moorline-gateway-acme": hop,
        "moorline-gateway-globex": hop,
        "moorline-postgres": [5432],
        "moorline-valkey": [6379],
    }


def test_every_role_reaches_the_stores() -> None:
    documents = load_without_test("bare")
    job = next(name.split()[1] for name in list_pods(documents) if name.startswith("Job"))
    for role in ("moorline-portal", "moorline-worker", "moorline-beat", "moorline-watch", job):
        reach = list_open_ports(documents, role)
        assert (reach["moorline-postgres"], reach["moorline-valkey"]) == ([5432], [6379]), role
    assert "moorline-valkey" not in list_open_ports(documents, "moorline-postgres")


def test_stores_reach_nothing() -> None:
    for name in ("moorline-postgres", "moorline-valkey"):
        policy = pick_kind(load(), "NetworkPolicy")[name]["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert policy["egress"] == []


def test_the_way_in_and_the_metrics_can_be_left_to_some() -> None:
    documents = load_without_test("metrics")
    assert list_open_ports(documents, None) == {}
    rules = pick_kind(documents, "NetworkPolicy")["moorline-gateway"]["spec"]["ingress"]
    web, metrics, _ = rules
    assert (web["ports"], web["from"][0]) == ([{"port": 8000}], PEER)
    assert metrics == {"ports": [{"port": 9090}], "from": [PEER]}


def test_the_test_of_the_release_comes_in_where_the_way_in_is_left_to_some() -> None:
    documents = load_row("metrics")
    tester = next(pod["metadata"]["labels"] for name, pod in list_pods(documents).items() if name.startswith("Pod"))
    portal = list_pods(documents)["Deployment moorline-portal"]["metadata"]["labels"]
    assert may_reach(documents, tester, portal, 8000)


def test_without_policies_the_worker_keeps_none_either() -> None:
    documents = load_row("no network policies")
    assert pick_kind(documents, "NetworkPolicy") == {}
    for row, flag in (("no network policies", "0"), ("bare", "1")):
        worker = list_pods(load_row(row))["Deployment moorline-worker"]["spec"]["containers"][0]
        assert {"name": "MOORLINE_NETWORK_POLICIES", "value": flag} in worker["env"]
