"""The ways of installing that are tested, and what they render."""

from __future__ import annotations

from typing import Any

from tests.chart.helm import Document, load

PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "traefik"}}}
SCHEDULING: dict[str, Any] = {
    "nodeSelector": {"pool": "moorline"},
    "tolerations": [{"key": "moorline", "operator": "Equal", "value": "only", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "Exists"}]}]
            }
        }
    },
    "priorityClassName": "high",
    "podAnnotations": {"example.com/owner": "net"},
    "podLabels": {"team": "net"},
}
SPREAD = {
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
    ]
}
EXTRA = {"extraEnv": [{"name": "MOORLINE_MAX_SESSIONS", "value": "4"}]}
DEDICATED = {
    "name": "acme",
    "customers": ["acmeco", "acmecorp"],
    "replicas": 3,
    "drainTimeoutSeconds": 120,
    "resources": {"limits": {"memory": "2Gi"}},
    **SCHEDULING,
}
GATEWAY_API = {"type": "gatewayApi", "gatewayApi": {"className": "envoy"}}
CERT_MANAGER = {"enabled": True, "email": "net@example.com"}

ROWS: dict[str, dict[str, Any]] = {
    "bare": {},
    "nginx": {
        "ingress": {"className": "nginx", "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "3600"}},
        "tls": {"secretName": "uplink-example-com"},
    },
    "cert-manager": {"certManager": CERT_MANAGER},
    "existing issuer": {"certManager": {"enabled": True, "existingIssuer": {"name": "letsencrypt"}}},
    "client domain": {"clientDomain": "clients.example.com", "certManager": CERT_MANAGER},
    "istio": {"ingress": {"type": "istio"}, "tls": {"secretName": "uplink"}, "dedicatedGateways": [DEDICATED]},
    "istio, client domain": {
        "ingress": {"type": "istio", "istio": {"selector": {"istio": "public"}, "namespace": "public"}},
        "certManager": CERT_MANAGER,
        "clientDomain": "clients.example.com",
    },
    "gateway api": {"ingress": GATEWAY_API, "certManager": CERT_MANAGER, "dedicatedGateways": [DEDICATED]},
    "gateway api, existing": {
        "ingress": {
            "type": "gatewayApi",
            "gatewayApi": {"parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}]},
        },
        "clientDomain": "clients.example.com",
    },
    "gateway api, no tls": {"ingress": GATEWAY_API, "tls": {"enabled": False}},
    "external urls": {
        "postgres": {"enabled": False},
        "externalDatabase": {"url": "postgres://moorline:hidden@db.example.com:5432/moorline?sslmode=require"},
        "valkey": {"enabled": False},
        "externalRedis": {"url": "rediss://:hidden@cache.example.com:6379/0"},
    },
    "external secrets": {
        "postgres": {"enabled": False},
        "externalDatabase": {"existingSecret": "database", "existingSecretKey": "uri"},
        "valkey": {"enabled": False},
        "externalRedis": {"existingSecret": "cache", "existingSecretKey": "uri"},
        "secrets": {"existingSecret": "moorline-secrets"},
    },
    "dedicated": {
        "dedicatedGateways": [
            DEDICATED,
            {"name": "globex", "customers": ["globex"], "autoscaling": {"enabled": True, "maxReplicas": 9}},
        ]
    },
    "inlets": {"inletsCompatible": True},
    "high availability": {
        "portal": {"replicas": 2},
        "gateway": {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 12}},
        "worker": {"replicas": 2},
        "watch": {"replicas": 2},
        "podDisruptionBudget": {"maxUnavailable": "30%"},
    },
    "metrics": {
        "metrics": {"enabled": True, "monitors": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {"from": [PEER], "metricsFrom": [PEER]},
    },
    "one namespace": {"tunnelsNamespace": "acmeco", "inletsCompatible": True},
    "no network policies": {"networkPolicy": {"enabled": False}},
    "own way in": {"ingress": {"type": "none"}, "tls": {"enabled": False}},
    "little": {
        "rbac": False,
        "crds": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "postgres": {"persistence": {"enabled": False}},
        "valkey": {"persistence": {"enabled": False}},
        "gateway": {"replicas": 1},
    },
    "everything": {
        "fullnameOverride": "uplink",
        "nameOverride": "tunnels",
        "commonLabels": {"cost-centre": "net"},
        "image": {
            "repository": "registry.example.com/moorline",
            "digest": f"sha256:{'0' * 64}",
            "pullPolicy": "Always",
        },
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountAnnotations": {"example.com/role": "moorline"},
        "crds": {"keep": False},
        "postgres": {
            **SCHEDULING,
            "args": ["-c", "max_connections=300"],
            "persistence": {"storageClass": "fast", "size": "1Ti"},
        },
        "valkey": SCHEDULING,
        "extraVolumes": [{"name": "authority", "configMap": {"name": "authority"}}],
        "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/authority", "readOnly": True}],
        "extraEnv": [{"name": "MOORLINE_LOG_LEVEL", "value": "debug"}],
        "portal": {**SCHEDULING, **SPREAD, **EXTRA},
        "gateway": {
            **SCHEDULING,
            **SPREAD,
            **EXTRA,
            "serviceType": "LoadBalancer",
            "serviceAnnotations": {"example.com/balancer": "network"},
            "terminationGracePeriodSeconds": 600,
        },
        "worker": {**SCHEDULING, **SPREAD, **EXTRA},
        "beat": {**SCHEDULING, **EXTRA},
        "watch": {**SCHEDULING, **SPREAD, **EXTRA},
        "migration": {**SCHEDULING, **EXTRA},
    },
}


def load_row(row: str) -> list[Document]:
    """Return the objects of a row."""
    return load(ROWS[row])


def list_pods(documents: list[Document]) -> dict[str, Document]:
    """Return what pods are made of, `metadata` and `spec`, by kind and name of what makes them."""
    pods = {}
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            pods[name] = document["spec"]["template"]
        elif document["kind"] == "Pod":
            pods[name] = document
    return pods


def list_containers(pod: Document) -> list[Document]:
    """Return all containers of a pod, those that run first included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def matches(selector: Document, labels: dict[str, str]) -> bool:
    """Say whether a label selector of Kubernetes selects these labels."""
    if not all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True
