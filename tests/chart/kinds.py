"""Other people's resources, as far as the chart makes them: what their definitions have, and nothing else."""

from __future__ import annotations

from typing import Any

STRING = {"type": "string", "minLength": 1}
HOSTS = {"type": "array", "minItems": 1, "items": STRING}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
STRINGS = {"type": "object", "additionalProperties": STRING, "minProperties": 1}


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has these properties, the required ones in any case, and no others."""
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def some(items: Any) -> dict[str, Any]:
    """Return the schema of a list that is not empty."""
    return {"type": "array", "minItems": 1, "items": items}


PARENTS = some(closed("name", group=STRING, kind=STRING, name=STRING, namespace=STRING, sectionName=STRING, port=PORT))
DESTINATION = closed("destination", destination=closed("host", "port", host=STRING, port=closed("number", number=PORT)))
METRICS = some(closed("port", port=STRING, path=STRING, interval=STRING))

SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("cert-manager.io/v1", "Issuer"): closed(
        "acme",
        acme=closed(
            *("server", "email", "privateKeySecretRef", "solvers"),
            server=STRING,
            email=STRING,
            privateKeySecretRef=closed("name", name=STRING),
            solvers=some(
                closed(
                    "http01",
                    http01={
                        "oneOf": [
                            closed("ingress", ingress=closed(ingressClassName=STRING)),
                            closed("ingress", ingress=closed("class", **{"class": STRING})),
                            closed("gatewayHTTPRoute", gatewayHTTPRoute=closed("parentRefs", parentRefs=PARENTS)),
                        ]
                    },
                )
            ),
        ),
    ),
    ("cert-manager.io/v1", "Certificate"): closed(
        *("secretName", "dnsNames", "issuerRef"),
        secretName=STRING,
        dnsNames=HOSTS,
        issuerRef=closed("name", "kind", group=STRING, name=STRING, kind={"enum": ["Issuer", "ClusterIssuer"]}),
        privateKey=closed(algorithm={"enum": ["ECDSA"]}, size={"enum": [256]}, rotationPolicy={"enum": ["Always"]}),
    ),
    ("networking.istio.io/v1", "Gateway"): closed(
        *("selector", "servers"),
        selector=STRINGS,
        servers=some(
            closed(
                *("port", "hosts"),
                port=closed(
                    "number", "name", "protocol", number=PORT, name=STRING, protocol={"enum": ["HTTP", "HTTPS"]}
                ),
                hosts=HOSTS,
                tls={
                    "oneOf": [
                        closed("httpsRedirect", httpsRedirect={"const": True}),
                        closed("mode", "credentialName", mode={"const": "SIMPLE"}, credentialName=STRING),
                    ]
                },
            )
        ),
    ),
    ("networking.istio.io/v1", "VirtualService"): closed(
        *("hosts", "gateways", "http"),
        hosts=HOSTS,
        gateways=some(STRING),
        http=some(
            closed(
                "route",
                match=some(
                    closed("uri", uri={"oneOf": [closed("exact", exact=STRING), closed("prefix", prefix=STRING)]})
                ),
                route=some(DESTINATION),
            )
        ),
    ),
    ("gateway.networking.k8s.io/v1", "Gateway"): closed(
        *("gatewayClassName", "listeners"),
        gatewayClassName=STRING,
        listeners=some(
            closed(
                *("name", "port", "protocol"),
                name=STRING,
                port=PORT,
                protocol={"enum": ["HTTP", "HTTPS"]},
                tls=closed(
                    "certificateRefs", mode={"const": "Terminate"}, certificateRefs=some(closed("name", name=STRING))
                ),
                allowedRoutes=closed(namespaces=closed(**{"from": {"enum": ["Same"]}})),
            )
        ),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        *("parentRefs", "hostnames", "rules"),
        parentRefs=PARENTS,
        hostnames=HOSTS,
        rules={
            "type": "array",
            "minItems": 1,
            "maxItems": 16,
            "items": {
                "oneOf": [
                    closed(
                        *("matches", "backendRefs"),
                        matches={
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 64,
                            "items": closed(
                                "path",
                                path=closed("type", "value", type={"enum": ["Exact", "PathPrefix"]}, value=STRING),
                            ),
                        },
                        backendRefs=some(closed("name", "port", name=STRING, port=PORT)),
                    ),
                    closed(
                        "filters",
                        filters=some(
                            closed(
                                *("type", "requestRedirect"),
                                type={"const": "RequestRedirect"},
                                requestRedirect=closed(scheme={"const": "https"}, statusCode={"enum": [301, 302]}),
                            )
                        ),
                    ),
                ]
            },
        },
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        "selector", "endpoints", selector=closed("matchLabels", matchLabels=STRINGS), endpoints=METRICS
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        "selector",
        "podMetricsEndpoints",
        selector=closed("matchLabels", matchLabels=STRINGS),
        podMetricsEndpoints=METRICS,
    ),
}

METADATA = closed("name", "namespace", "labels", name=STRING, namespace=STRING, labels=STRINGS, annotations=STRINGS)


def describe(api_version: str, kind: str) -> dict[str, Any] | None:
    """Return the schema of a whole resource, None where Kubernetes itself has the kind."""
    spec = SPECS.get((api_version, kind))
    if spec is None:
        return None
    return closed(
        *("apiVersion", "kind", "metadata", "spec"), apiVersion=STRING, kind=STRING, metadata=METADATA, spec=spec
    )
