"""The definitions of the resource Tunnel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from portal.models import names
from tests.chart.helm import Document, load, pick
from tests.chart.matrix import load_row

OWN = "tunnels.moorline.dev"
COMPATIBLE = "tunnels.uplink.inlets.dev"


def load_definition(name: str = OWN) -> Document:
    """Return a definition."""
    return pick(load_row("inlets"), "CustomResourceDefinition", name)


def read_tunnel(name: str = OWN) -> Document:
    """Return the schema of the resource."""
    (version,) = load_definition(name)["spec"]["versions"]
    schema: Document = version["schema"]["openAPIV3Schema"]
    return schema


def list_nodes(schema: Document, path: str) -> Iterator[tuple[str, Document]]:
    """Give every schema in a schema, with its place."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from list_nodes(part, f"{path}.{name}")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from list_nodes(schema["additionalProperties"], f"{path}.*")
    if "items" in schema:
        yield from list_nodes(schema["items"], f"{path}[]")


def list_rules(schema: Document) -> dict[str, str]:
    """Return the rules of a schema by their messages."""
    return {rule["message"]: rule["rule"] for rule in schema["x-kubernetes-validations"]}


@pytest.mark.parametrize("name", [OWN, COMPATIBLE])
def test_the_schema_is_structural(name: str) -> None:
    nodes = dict(list_nodes(read_tunnel(name), ""))
    assert len(nodes) > 40
    for path, node in nodes.items():
        assert node["type"] in ("object", "array", "string", "integer"), path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert ("items" in node) == (node["type"] == "array"), path
        assert not {"$ref", "definitions", "dependencies", "patternProperties", "uniqueItems"} & set(node), path
        # Without a bound on lists the API server cannot say what a rule costs, and refuses the definition.
        if "x-kubernetes-validations" in node and node["type"] == "array":
            assert node["maxItems"] <= 200, path


def test_both_groups_have_one_schema() -> None:
    own, compatible = load_definition()["spec"], load_definition(COMPATIBLE)["spec"]
    assert own["versions"] == compatible["versions"]
    assert own["names"] == {**compatible["names"], "shortNames": ["tun"]}
    assert (own["group"], compatible["group"]) == ("moorline.dev", "uplink.inlets.dev")


def test_the_fields_are_these() -> None:
    schema = read_tunnel()
    assert list(schema["properties"]["spec"]["properties"]) == [
        "tcpPorts",
        "upstreamDomains",
        "tokenRef",
        "access",
        "expiresAt",
        "podAnnotations",
        "nodeSelector",
        "env",
        "licenseRef",
    ]
    assert list(schema["properties"]["status"]["properties"]) == ["observedGeneration", "sessions", "conditions"]
    columns = load_definition()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns] == ["Ports", "Domains", "Connected", "Ready", "Age"]
    assert load_definition()["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_names_are_those_that_the_portal_takes() -> None:
    form, reserved = list_rules(read_tunnel()).values()
    assert f"matches('{names.LETTER_LABEL_PATTERN}')" in form
    assert f"size() <= {names.LABEL_LENGTH}" in form
    assert set(re.findall(r"'([a-z]+)'", reserved)) == names.RESERVED_TUNNELS
    assert tuple(re.findall(r"startsWith\('([a-z-]+)'\)", reserved)) == names.RESERVED_PREFIXES


def test_host_names_are_those_that_the_portal_takes() -> None:
    domains = read_tunnel()["properties"]["spec"]["properties"]["upstreamDomains"]
    (rule,) = list_rules(domains["items"]).values()
    assert rule == f"self.matches('{names.HOST_PATTERN}')".replace(r"\.", "[.]")
    assert domains["items"]["maxLength"] == names.HOST_LENGTH


def test_the_definitions_stay_when_the_release_goes_unless_the_values_say_otherwise() -> None:
    def read_annotations(values: Any) -> Any:
        return pick(load(values), "CustomResourceDefinition", OWN)["metadata"].get("annotations")

    assert read_annotations({}) == {"helm.sh/resource-policy": "keep"}
    assert read_annotations({"crds": {"keep": False}}) is None


def test_the_definition_of_inlets_is_made_only_when_asked_for() -> None:
    names_made = [d["metadata"]["name"] for d in load() if d["kind"] == "CustomResourceDefinition"]
    assert names_made == [OWN]
