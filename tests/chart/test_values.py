"""Every value is documented, has a schema, and does something; what is wrong is refused with a sentence."""

from __future__ import annotations

import copy
import re
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, ROOT, refuse, render
from tests.chart.matrix import CERT_MANAGER, GATEWAY_API
from tests.chart.readme import write_readme
from tests.chart.values import Value, read_schema, read_values

VALUES = {value.path: value for value in read_values()}
EXISTING = {"secrets.existingSecret": "secrets"}  # nothing random is rendered
EXTERNAL: dict[str, Any] = {"postgres.enabled": False, "valkey.enabled": False}
EXTERNAL_URLS = {"externalDatabase.url": "postgres://db/x", "externalRedis.url": "redis://cache"}
EXTERNAL_SECRETS = {"externalDatabase.existingSecret": "db", "externalRedis.existingSecret": "cache"}
# What else has to be set for a value to count, by the beginning of its path; the longest one is taken.
CONDITIONS: dict[str, dict[str, Any]] = {
    "": EXISTING,
    "admin.password": {},
    "secrets": {},
    "externalDatabase": EXISTING | EXTERNAL | EXTERNAL_SECRETS,
    "externalDatabase.url": EXISTING | EXTERNAL | EXTERNAL_URLS,
    "externalRedis": EXISTING | EXTERNAL | EXTERNAL_SECRETS,
    "externalRedis.url": EXISTING | EXTERNAL | EXTERNAL_URLS,
    "ingress.istio": EXISTING | {"ingress.type": "istio", "certManager": CERT_MANAGER},
    "ingress.gatewayApi": EXISTING | {"ingress": GATEWAY_API, "tls.secretName": "tls"},
    "ingress.type": EXISTING | {"tls.secretName": "tls"},
    "certManager": EXISTING | {"certManager": CERT_MANAGER},
    "certManager.existingIssuer.kind": EXISTING
    | {"certManager": CERT_MANAGER | {"existingIssuer": {"name": "letsencrypt"}}},
    "gateway.autoscaling": EXISTING | {"gateway.autoscaling.enabled": True},
    "gateway.autoscaling.enabled": EXISTING,
    "metrics": EXISTING | {"metrics.enabled": True, "metrics.monitors": True},
    "metrics.enabled": EXISTING,
    "metrics.monitors": EXISTING | {"metrics.enabled": True},
    "networkPolicy.metricsFrom": EXISTING | {"metrics.enabled": True},
}
# Texts of a form that the schema or a template asks for; {} is a number that no other value has.
FORMS = {
    "admin.password": "correct horse {}",
    "domain": "portal{}.example.com",
    "clientDomain": "clients{}.example.com",
    "trustedProxies": "192.0.2.1/{}",
    "tunnelsNamespace": "acmeco{}",
    "listenPorts": "30{}-30999",
    "externalDatabase.url": "postgres://db.example.com/{}",
    "externalRedis.url": "redis://cache.example.com/{}",
    "postgres.persistence.size": "{}Gi",
    "valkey.persistence.size": "{}Gi",
    "certManager.email": "net{}@example.com",
    "certManager.server": "https://acme.example.com/{}",
    "metrics.interval": "{}s",
}
# Values that are looked at one by one: what they are changed to.
ALONE: dict[str, dict[str, Any]] = {
    "postgres.enabled": EXISTING | EXTERNAL | EXTERNAL_URLS | {"valkey.enabled": True, "externalRedis.url": ""},
    "valkey.enabled": EXISTING | EXTERNAL | EXTERNAL_URLS | {"postgres.enabled": True, "externalDatabase.url": ""},
    "certManager.enabled": EXISTING,
    "certManager.existingIssuer.name": EXISTING | {"certManager": CERT_MANAGER | {"existingIssuer": {"name": "other"}}},
    "image.digest": EXISTING | {"image.digest": f"sha256:{'1' * 64}"},
    "ingress.type": EXISTING | {"tls.secretName": "tls", "ingress.type": "istio"},
    "ingress.gatewayApi.parentRefs": EXISTING
    | {"ingress.type": "gatewayApi", "ingress.gatewayApi.parentRefs": [{"name": "x"}]},
    "gateway.autoscaling.targetCPUUtilizationPercentage": EXISTING
    | {"gateway.autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": 77}},
    "gateway.autoscaling.minReplicas": EXISTING | {"gateway.autoscaling": {"enabled": True, "minReplicas": 5}},
    "podDisruptionBudget.maxUnavailable": EXISTING | {"podDisruptionBudget.maxUnavailable": 2},
    "gateway.listenerLingerSeconds": EXISTING | {"gateway.listenerLingerSeconds": 17},
    "gateway.terminationGracePeriodSeconds": EXISTING | {"gateway.terminationGracePeriodSeconds": 777},
    "worker.concurrency": EXISTING | {"worker.concurrency": 77},
    "dedicatedGateways": EXISTING | {"dedicatedGateways": [{"name": "acme", "customers": ["acmeco"]}]},
}


def make_text(value: Value, number: int) -> str:
    """Return a text that appears in the output for no other value."""
    return FORMS.get(value.path, "another-{}").format(number)


def make_other(value: Value, number: int) -> Any:
    """Return a value that the schema allows and that has a text or a number of its own."""
    if value.schema.get("type") == "integer":
        return number
    text = make_text(value, number)
    if value.schema.get("type") == "array":
        return [make_item(value.schema["items"], text)]
    return make_item(value.schema, text)


def make_item(schema: dict[str, Any], text: str) -> Any:
    """Return something of a shape that several values share, with a text in it."""
    shapes: dict[str, Any] = {
        "strings": {text: text},
        "kubernetesObject": {text: text},
        "resources": {"limits": {text: 1}},
        "toleration": {"key": text},
        "affinity": {"podAffinity": {text: 1}},
        "variable": {"name": text, "value": text},
    }
    if "$ref" in schema:
        return shapes[schema["$ref"].rpartition("/")[2]]
    return text if schema["type"] == "string" else {"name": text}


def is_choice(value: Value) -> bool:
    """Say whether a value is one of a few, and tells no text of its own."""
    return (
        value.schema.get("type") == "boolean"
        or "enum" in value.schema
        or value.schema.get("$ref", "").endswith("Policy")
    )


def choose_other(value: Value) -> Any:
    """Return another choice than the default."""
    if value.schema.get("type") == "boolean":
        return not value.default
    choices = value.schema.get("enum", ["IfNotPresent", "Never"])
    return next(choice for choice in choices if choice != value.default)


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Return values by their paths as nested values."""
    nested: dict[str, Any] = {}
    for path, value in copy.deepcopy(flat).items():
        *parents, last = path.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = {**place[last], **value} if isinstance(place.get(last), dict) else value
    return nested


def find_condition(path: str) -> str:
    """Return the key in CONDITIONS of what else has to be set for a value to count."""
    return max((prefix for prefix in CONDITIONS if path.startswith(prefix)), key=len)


def test_every_choice_does_something() -> None:
    pairs = {}
    for path, value in VALUES.items():
        condition = CONDITIONS[find_condition(path)]
        if path in ALONE:
            pairs[path] = (nest(condition), nest(ALONE[path]))
        elif is_choice(value):
            pairs[path] = (nest(condition), nest({**condition, path: choose_other(value)}))
    with ThreadPoolExecutor(2) as pool:
        before = pool.map(lambda pair: render(pair[0]), pairs.values())
        after = pool.map(lambda pair: render(pair[1]), pairs.values())
        idle = [path for path, one, other in zip(pairs, before, after, strict=True) if one == other]
    assert idle == []


def test_every_other_value_is_in_what_is_rendered() -> None:
    groups: dict[str, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    for number, (path, value) in enumerate(VALUES.items(), start=311):
        if path not in ALONE and not is_choice(value):
            groups.setdefault(find_condition(path), {})[path] = make_other(value, number)
            text = make_text(value, number)
            texts[path] = str(number) if value.schema.get("type") == "integer" else text
    idle = []
    for condition, others in groups.items():
        output = render(nest({**CONDITIONS[condition], **others}))
        before = render(nest(CONDITIONS[condition]))
        decoded = output + "".join(decode_secrets(output))
        idle += [path for path in others if texts[path] not in decoded or texts[path] in before]
    assert idle == []


def decode_secrets(text: str) -> Iterator[str]:
    """Give the data of every Secret in plain text."""
    for document in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if document and document["kind"] == "Secret":
            yield from (b64decode(value).decode() for value in document["data"].values())


def test_every_value_is_documented() -> None:
    assert len(VALUES) > 150
    silent = [value.path for value in VALUES.values() if not (len(value.comment) > 10 and value.comment.endswith("."))]
    assert silent == []


def test_every_value_has_a_schema_and_the_schema_has_no_others() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        assert list(schema["properties"]) == list(values), path
        for key, described in schema["properties"].items():
            if "properties" in described:
                compare(described, values[key], f"{path}{key}.")

    compare(read_schema(), defaults, "")


def test_the_schema_takes_no_key_that_it_does_not_name() -> None:
    def list_objects(schema: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(schema, dict):
            if schema.get("type") == "object":
                yield path, schema.get("additionalProperties", True)
            for key, part in schema.items():
                yield from list_objects(part, f"{path}/{key}")

    objects = dict(list_objects(read_schema(), ""))
    open_ones = {path for path, additional in objects.items() if additional is True}
    maps = {path for path, additional in objects.items() if isinstance(additional, dict)}
    assert open_ones == {"/definitions/kubernetesObject"}
    assert maps == {"/definitions/strings", "/definitions/quantities"}


def test_templates_use_no_value_that_does_not_exist() -> None:
    known = {".".join(path.split(".")[:depth]) for path in VALUES for depth in range(1, 5)}
    texts = {path.name: path.read_text() for path in CHART.glob("templates/**/*") if path.is_file()}
    used = {(name, path) for name, text in texts.items() for path in re.findall(r"\.Values\.([A-Za-z.]+)", text)}
    assert len(used) > 60
    assert [pair for pair in used if pair[1] not in known] == []


def test_the_page_about_clusters_names_no_value_that_does_not_exist() -> None:
    known = {".".join(path.split(".")[:depth]) for path in VALUES for depth in range(1, 5)}
    text = (ROOT / "docs/cluster.md").read_text()
    groups = "|".join({path.partition(".")[0] for path in VALUES if "." in path})
    named = set(re.findall(rf"`((?:{groups})(?:\.\w+)+)[=`]", text)) | set(
        re.findall(r"--set(?:-json)? '?([\w.]+)=", text)
    )
    assert len(named) > 30
    assert named <= known


def test_the_readme_is_made_of_the_comments() -> None:
    assert (CHART / "README.md").read_text() == write_readme(), "run: make chart-readme"


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"domain": ""}, "Set domain to the host name of the portal: --set domain=uplink.example.com"),
    ({"domain": "https://uplink.example.com"}, "at '/domain': 'https://uplink.example.com' does not match pattern"),
    ({"gateways": 3}, "additional properties 'gateways' not allowed"),
    ({"gateway": {"replica": 3}}, "at '/gateway': additional properties 'replica' not allowed"),
    ({"portal": {"replicas": "two"}}, "at '/portal/replicas': got string, want integer"),
    (
        {"ingress": {"type": "nginx"}},
        "at '/ingress/type': value must be one of 'ingress', 'istio', 'gatewayApi', 'none'",
    ),
    ({"portal": {"tolerations": [{"kay": "x"}]}}, "additional properties 'kay' not allowed"),
    ({"dedicatedGateways": [{"name": "acme"}]}, "at '/dedicatedGateways/0': missing property 'customers'"),
    ({"dedicatedGateways": [{"name": "shared", "customers": ["acmeco"]}]}, "choose another one"),
    (
        {"dedicatedGateways": [{"name": "one", "customers": ["acmeco"]}, {"name": "one", "customers": ["globex"]}]},
        "dedicatedGateways has two with the name one.",
    ),
    (
        {"dedicatedGateways": [{"name": "one", "customers": ["acmeco"]}, {"name": "two", "customers": ["acmeco"]}]},
        "The customer acmeco is in the dedicated gateways one and two: name each customer once.",
    ),
    (
        {"gateway": {"drainTimeoutSeconds": 300, "terminationGracePeriodSeconds": 60}},
        "terminationGracePeriodSeconds 60: its pods would be killed while they drain. Set it to 325 or more, or to 0.",
    ),
    (
        {
            "gateway": {"terminationGracePeriodSeconds": 60},
            "dedicatedGateways": [{"name": "acme", "customers": ["acmeco"], "drainTimeoutSeconds": 90}],
        },
        "The dedicated gateway acme has terminationGracePeriodSeconds 60",
    ),
    (
        {"gateway": {"drainTimeoutSeconds": 5}},
        "gateway has listenerLingerSeconds 10: no more than drainTimeoutSeconds, 5,",
    ),
    ({"gateway": {"autoscaling": {"minReplicas": 7}}}, "gateway.autoscaling.minReplicas is above maxReplicas."),
    ({"listenPorts": "29999-20000"}, "listenPorts is 29999-20000: write the first and the last port"),
    ({"listenPorts": "7000-9000"}, "which holds port 8000: a gateway needs that one for itself."),
    ({"admin": {"password": "short"}}, "admin.password has fewer than 12 characters."),
    ({"postgres": {"enabled": False}}, "set externalDatabase.url or externalDatabase.existingSecret."),
    ({"externalDatabase": {"url": "postgres://db/x"}}, "set postgres.enabled to false to use your own."),
    ({"valkey": {"enabled": False}}, "set externalRedis.url or externalRedis.existingSecret."),
    (
        {"postgres": {"enabled": False}, "externalDatabase": {"url": "postgres://db/x", "existingSecret": "db"}},
        "Set only one of externalDatabase.url and externalDatabase.existingSecret.",
    ),
    (
        {"postgres": {"enabled": False}, "externalDatabase": {"url": "mysql://hidden@db/x"}},
        "externalDatabase.url has to begin with postgres://",
    ),
    ({"ingress": {"type": "gatewayApi"}}, "Set ingress.gatewayApi.className"),
    ({"ingress": {"type": "istio"}}, "a certificate is needed. Set tls.secretName or certManager.enabled."),
    ({"certManager": {"enabled": True}}, "Set certManager.email"),
    ({"certManager": CERT_MANAGER, "tls": {"enabled": False}}, "a certificate is for nothing without TLS."),
    (
        {"certManager": CERT_MANAGER, "ingress": {"type": "gatewayApi", "gatewayApi": {"parentRefs": [{"name": "x"}]}}},
        "TLS belongs to the Gateway that exists",
    ),
    ({"metrics": {"monitors": True}}, "there is nothing to monitor."),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSALS)
def test_what_is_wrong_is_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    message = refuse(values)
    assert sentence in message
    assert "hidden" not in message


def test_a_name_of_a_release_with_a_dot_is_refused() -> None:
    with pytest.raises(AssertionError, match="choose one without a dot"):
        render(name="moor.line")
