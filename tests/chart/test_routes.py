"""Who comes where: browsers to the portal, clients to the gateways, each customer to its own where it has some."""

from __future__ import annotations

import re
from typing import Any

import pytest

from portal.models.names import PATHS
from tests.chart.helm import DOMAIN, ROOT, Document, load, pick, pick_kind
from tests.chart.matrix import CERT_MANAGER, GATEWAY_API, ROWS, load_row

CLIENTS = "clients.example.com"
DEDICATED = {"dedicatedGateways": [{"name": "acme", "customers": ["acmeco"]}]}
WAYS: dict[str, dict[str, Any]] = {
    "ingress": {},
    "istio": {"ingress": {"type": "istio"}, "certManager": CERT_MANAGER},
    "gatewayApi": {"ingress": GATEWAY_API, "certManager": CERT_MANAGER},
}
SHARED = {
    "/": "moorline-portal",
    "/admin": "moorline-portal",
    "/admin/portal/tunnel/1/change/": "moorline-portal",
    "/static/portal/anchor.svg": "moorline-portal",
    "/api/v1/tunnels": "moorline-portal",
    "/claim/0123": "moorline-portal",
    "/globex/prod": "moorline-gateway",
    "/administration/prod": "moorline-gateway",
    "/apiary/prod": "moorline-gateway",
    "/acmeco/prod": "moorline-gateway-acme",
    "/acmecorp/prod": "moorline-gateway",
    "/metrics": "moorline-gateway",
}
APART = {
    (DOMAIN, "/"): "moorline-portal",
    (DOMAIN, "/admin/"): "moorline-portal",
    (DOMAIN, "/globex/prod"): "moorline-portal",
    (CLIENTS, "/"): "moorline-gateway",
    (CLIENTS, "/globex/prod"): "moorline-gateway",
    (CLIENTS, "/acmeco/prod"): "moorline-gateway-acme",
}

Rule = tuple[str, str, str, int]  # kind of match, path, Service, priority that an annotation gives


def list_ingress_rules(documents: list[Document], host: str) -> list[Rule]:
    """Return the rules of all Ingress objects for a host."""
    rules = []
    for ingress in pick_kind(documents, "Ingress").values():
        annotations = ingress["metadata"].get("annotations", {})
        priority = int(annotations.get("traefik.ingress.kubernetes.io/router.priority", "0"))
        for rule in ingress["spec"]["rules"]:
            if rule["host"] == host:
                paths = rule["http"]["paths"]
                rules += [(p["pathType"], p["path"], p["backend"]["service"]["name"], priority) for p in paths]
    return rules


def is_below(path: str, prefix: str) -> bool:
    """Say whether a path is a prefix or lies below it, by whole parts."""
    prefix = prefix.rstrip("/")
    return path == prefix or path.startswith(f"{prefix}/")


def route_by_ingress(documents: list[Document], host: str, path: str) -> str:
    """Route as the Ingress API says: the exact path, then the longest prefix of whole parts."""
    rules = list_ingress_rules(documents, host)
    exact = [service for kind, value, service, _ in rules if kind == "Exact" and value == path]
    prefixes = [
        (len(value), service) for kind, value, service, _ in rules if kind == "Prefix" and is_below(path, value)
    ]
    return exact[0] if exact else max(prefixes)[1]


def route_by_traefik(documents: list[Document], host: str, path: str) -> str:
    """Route as Traefik does: the longest rule, as text, whose path or beginning of the path it is."""
    found = []
    for kind, value, service, priority in list_ingress_rules(documents, host):
        rule = f"Path(`{value}`)" if kind == "Exact" else f"PathPrefix(`{value}`)"
        if path == value or (kind == "Prefix" and path.startswith(value)):
            found.append((priority or len(rule), service))
    return max(found)[1]


def route_by_istio(documents: list[Document], host: str, path: str) -> str:
    """Route as Istio does: the first rule that matches, prefixes being mere text."""
    for service in pick_kind(documents, "VirtualService").values():
        if service["spec"]["hosts"] == [host]:
            for rule in service["spec"]["http"]:
                uris = [match["uri"] for match in rule.get("match", [])]
                matched = any(path == u.get("exact") or path.startswith(u.get("prefix", "\0")) for u in uris)
                if matched or not uris:
                    name, namespace, *_ = rule["route"][0]["destination"]["host"].split(".")
                    assert namespace == "moorline"
                    return str(name)
    raise AssertionError(f"nothing matches {host}{path}")


def route_by_gateway_api(documents: list[Document], host: str, path: str) -> str:
    """Route as the Gateway API says: the exact path, then the longest prefix of whole parts."""
    found = []
    for route in pick_kind(documents, "HTTPRoute").values():
        for rule in route["spec"]["rules"]:
            if host in route["spec"]["hostnames"] and "backendRefs" in rule:
                for match in rule["matches"]:
                    kind, value = match["path"]["type"], match["path"]["value"]
                    if (kind == "Exact" and path == value) or (kind == "PathPrefix" and is_below(path, value)):
                        found.append((kind == "Exact", len(value), rule["backendRefs"][0]["name"]))
    return str(max(found)[2])


ROUTERS = [
    ("ingress", route_by_ingress),
    ("ingress", route_by_traefik),
    ("istio", route_by_istio),
    ("gatewayApi", route_by_gateway_api),
]


@pytest.mark.parametrize(("way", "route"), ROUTERS)
def test_on_a_shared_domain_the_portal_has_its_pages_and_the_gateways_have_the_rest(way: str, route: Any) -> None:
    documents = load(WAYS[way] | DEDICATED)
    assert {path: route(documents, DOMAIN, path) for path in SHARED} == SHARED


@pytest.mark.parametrize(("way", "route"), ROUTERS)
def test_a_domain_of_the_clients_own_is_the_gateways(way: str, route: Any) -> None:
    documents = load(WAYS[way] | DEDICATED | {"clientDomain": CLIENTS})
    assert {(host, path): route(documents, host, path) for host, path in APART} == APART


@pytest.mark.parametrize("way", WAYS)
def test_routes_lead_to_services_that_exist_and_to_nothing_but_the_web_port(way: str) -> None:
    documents = load(WAYS[way] | DEDICATED)
    services = pick_kind(documents, "Service")
    named = set(re.findall(r"moorline-(?:portal|gateway)(?:-acme)?\b", str(list_backends(documents))))
    assert named == {"moorline-portal", "moorline-gateway", "moorline-gateway-acme"}
    for name in named:
        assert services[name]["spec"]["ports"][0]["port"] == 8000
        assert services[name]["spec"]["ports"][0]["name"] == "http"
    assert "9090" not in str(list_backends(documents))


def list_backends(documents: list[Document]) -> list[Any]:
    """Return the specs of whatever leads from outside to a Service."""
    return [d["spec"] for d in documents if d["kind"] in ("Ingress", "VirtualService", "HTTPRoute")]


def test_no_customer_can_have_the_name_of_a_path_of_the_portal() -> None:
    paths = {
        path.strip("/") for kind, path, service, _ in list_ingress_rules(load(), DOMAIN) if service.endswith("portal")
    }
    paths.discard("")
    assert paths <= PATHS
    urls = set(re.findall(r'\bpath\("([a-z-]+)/', (ROOT / "portal/config/urls.py").read_text()))
    assert "admin" in urls
    assert urls | {"static"} <= paths, "the chart leads these paths of the portal to the gateways: _names.tpl"


@pytest.mark.parametrize(
    ("row", "tls"),
    [
        ("bare", [{"hosts": [DOMAIN]}]),
        ("nginx", [{"hosts": [DOMAIN], "secretName": "uplink-example-com"}]),
        ("cert-manager", [{"hosts": [DOMAIN], "secretName": "moorline-tls"}]),
    ],
)
def test_where_an_ingress_has_its_certificate_from(row: str, tls: list[Document]) -> None:
    for ingress in pick_kind(load_row(row), "Ingress").values():
        assert ingress["spec"]["tls"] == tls


def test_one_switch_gets_a_certificate_by_http() -> None:
    documents = load_row("client domain")
    issuer = pick(documents, "Issuer", "moorline-tls")["spec"]["acme"]
    assert issuer["solvers"] == [{"http01": {"ingress": {"ingressClassName": "traefik"}}}]
    certificate = pick(documents, "Certificate", "moorline-tls")["spec"]
    assert certificate["dnsNames"] == [DOMAIN, CLIENTS]
    assert certificate["issuerRef"] == {"group": "cert-manager.io", "kind": "Issuer", "name": "moorline-tls"}


def test_an_issuer_that_exists_is_used() -> None:
    documents = load_row("existing issuer")
    assert pick_kind(documents, "Issuer") == {}
    reference = pick(documents, "Certificate", "moorline-tls")["spec"]["issuerRef"]
    assert (reference["kind"], reference["name"]) == ("ClusterIssuer", "letsencrypt")


def test_the_certificate_is_where_istio_looks_for_it() -> None:
    documents = load_row("istio, client domain")
    assert pick(documents, "Certificate", "moorline-tls")["metadata"]["namespace"] == "public"
    assert pick(documents, "Issuer", "moorline-tls")["metadata"]["namespace"] == "public"
    servers = pick(documents, "Gateway", "moorline")["spec"]["servers"]
    assert [server["tls"] for server in servers] == [
        {"httpsRedirect": True},
        {"mode": "SIMPLE", "credentialName": "moorline-tls"},
    ]


def test_the_gateway_api_sends_browsers_to_tls_and_gets_the_certificate_beside_it() -> None:
    documents = load_row("gateway api")
    listeners = pick(documents, "Gateway", "moorline")["spec"]["listeners"]
    assert [(listener["name"], listener["port"]) for listener in listeners] == [("http", 80), ("https", 443)]
    assert pick(documents, "HTTPRoute", "moorline-redirect")["spec"]["parentRefs"] == [
        {"name": "moorline", "sectionName": "http"}
    ]
    for name in ("moorline-portal", "moorline-gateway", "moorline-gateway-acme"):
        parents = pick(documents, "HTTPRoute", name)["spec"]["parentRefs"]
        assert parents == [{"name": "moorline", "sectionName": "https"}]
    solver = pick(documents, "Issuer", "moorline-tls")["spec"]["acme"]["solvers"][0]["http01"]["gatewayHTTPRoute"]
    assert solver["parentRefs"][0]["sectionName"] == "http"


def test_a_gateway_that_exists_is_joined() -> None:
    documents = load_row("gateway api, existing")
    assert pick_kind(documents, "Gateway") == {}
    parents = ROWS["gateway api, existing"]["ingress"]["gatewayApi"]["parentRefs"]
    for route in pick_kind(documents, "HTTPRoute").values():
        assert route["spec"]["parentRefs"] == parents


def test_no_way_in_is_made_where_none_is_asked_for() -> None:
    assert list_backends(load_row("own way in")) == []
