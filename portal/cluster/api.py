"""The Kubernetes API as the reconciler needs it: whole objects in and out, one error for what is refused.

Paths, credentials and TLS are the official client's; its generated classes are not used, because what is compared and
applied here are plain manifests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import urllib3
from django.conf import settings
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from portal.cluster.names import MANAGER

Manifest = dict[str, Any]

CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 10.0
CONNECTIONS: Final = 8  # as many as there are threads that apply
PAGE: Final = 500  # objects of one answer to a list


@dataclass(frozen=True)
class Kind:
    """Where objects of a kind are: ``/api/v1/namespaces/<namespace>/services``."""

    base: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the path of one object, or of all in a namespace, or of all in the cluster."""
        scope = f"/namespaces/{quote(namespace)}" if self.namespaced and namespace else ""
        return f"{self.base}{scope}/{self.plural}" + (f"/{quote(name)}" if name else "")


KINDS: Final = {
    "Namespace": Kind("/api/v1", "namespaces", namespaced=False),
    "Service": Kind("/api/v1", "services"),
    "Secret": Kind("/api/v1", "secrets"),
    "ResourceQuota": Kind("/api/v1", "resourcequotas"),
    "EndpointSlice": Kind("/apis/discovery.k8s.io/v1", "endpointslices"),
    "NetworkPolicy": Kind("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Tunnel": Kind("/apis/moorline.dev/v1alpha1", "tunnels"),
    "InletsTunnel": Kind("/apis/uplink.inlets.dev/v1alpha1", "tunnels"),
    "Event": Kind("/api/v1", "events"),
    "Lease": Kind("/apis/coordination.k8s.io/v1", "leases"),
}


class Unreachable(Exception):
    """The API server did not answer, or said that it cannot now."""


class ApiRefused(Exception):
    """The API server said no.

    Attributes:
        status: the HTTP status.
        reason: the API's own word, such as ``AlreadyExists``.
        message: the API's sentence, on one line.
        causes: its further words, such as ``NamespaceTerminating``.
    """

    def __init__(self, status: int, reason: str, message: str, causes: tuple[str, ...] = ()) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = causes


class ClusterNotConfigured(Exception):
    """There is no way to a cluster; the message says what to set."""


class KubernetesApi:
    """Read and write objects of one cluster. Every call is bounded in time, and may be made from several threads.

    Each raises `Unreachable` and `ApiRefused`.
    """

    def __init__(self, api_client: client.ApiClient) -> None:
        self._client = api_client

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object, or None where there is none."""
        try:
            return self._call("GET", KINDS[kind].path(namespace, name))
        except ApiRefused as refused:
            if refused.status == 404:
                return None
            raise

    def find(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object as `get` does, with no other right than to list."""
        found = self._list(kind, namespace, {"fieldSelector": f"metadata.name={name}"})
        return found[0] if found else None

    def list_all(self, kind: str, namespace: str = "", selector: str = "") -> list[Manifest]:
        """Return the objects of a namespace, or of all, that have these labels, page by page."""
        return self._list(kind, namespace, {"labelSelector": selector} if selector else {})

    def _list(self, kind: str, namespace: str, chosen: dict[str, str]) -> list[Manifest]:
        query = {"limit": str(PAGE), **chosen}
        found: list[Manifest] = []
        while True:
            page = self._call("GET", KINDS[kind].path(namespace), query=query)
            # The items of a list do not say what they are; the list does.
            whole = {"apiVersion": page["apiVersion"], "kind": page["kind"].removesuffix("List")}
            found += [{**whole, **item} for item in page.get("items") or []]
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object; one of this name is refused, whosever it is."""
        return self._call("POST", _path_of(manifest, name=False), body=without_absent(manifest))

    def apply(self, manifest: Manifest) -> Manifest:
        """Apply an object on the server as our field manager, taking over what others wrote to our fields."""
        body = without_absent(manifest)
        return self._call("PATCH", _path_of(manifest), body=body, content="apply-patch+yaml", query={"force": "true"})

    def merge(self, manifest: Manifest, patch: Manifest) -> Manifest:
        """Write *patch* over an object as a JSON merge patch (RFC 7396): lists whole, and null takes away."""
        return self._call("PATCH", _path_of(manifest), body=patch, content="merge-patch+json")

    def merge_status(self, kind: str, namespace: str, name: str, status: Manifest) -> Manifest:
        """Write *status* over the status of an object."""
        path = f"{KINDS[kind].path(namespace, name)}/status"
        return self._call("PATCH", path, body={"status": status}, content="merge-patch+json")

    def delete(self, manifest: Manifest) -> bool:
        """Delete just the object that was seen, and not another one that has its name meanwhile.

        Returns:
            Whether it was there.
        """
        body = {"preconditions": {"uid": manifest["metadata"]["uid"]}, "propagationPolicy": "Background"}
        try:
            self._call("DELETE", _path_of(manifest), body=body)
        except ApiRefused as refused:
            if refused.status in (404, 409):
                return False
            raise
        return True

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Manifest | None = None,
        content: str = "json",
        query: dict[str, str] | None = None,
    ) -> Manifest:
        parameters = dict(query or {})
        if method in ("POST", "PATCH"):
            parameters["fieldManager"] = MANAGER
        try:
            response = self._client.call_api(
                path,
                method,
                query_params=list(parameters.items()),
                header_params={"Accept": "application/json", "Content-Type": f"application/{content}"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, READ_SECONDS),
            )
            answer: Manifest = json.loads(response.data)
        except ApiException as error:
            raise _refusal_of(error) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise Unreachable(" ".join(str(error).split())[:300] or type(error).__name__) from error
        return answer


def connect() -> KubernetesApi:
    """Connect to the cluster of MOORLINE_KUBECONFIG, or to the one that this pod runs in.

    Raises:
        ClusterNotConfigured: with what to set.
    """
    return KubernetesApi(client.ApiClient(read_configuration()))


def read_configuration() -> client.Configuration:
    """Read where the cluster is and who we are to it.

    Raises:
        ClusterNotConfigured: with what to set.
    """
    configuration = client.Configuration()
    try:
        if settings.MOORLINE_KUBECONFIG:
            config.load_kube_config(settings.MOORLINE_KUBECONFIG, client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        place = settings.MOORLINE_KUBECONFIG or "this pod's service account"
        raise ClusterNotConfigured(
            f"The cluster cannot be used by {place}: {' '.join(str(error).split())}. Set MOORLINE_KUBECONFIG to a "
            "kubeconfig, run in a pod that has a service account, or set MOORLINE_TARGET to local."
        ) from error
    configuration.retries = False
    configuration.connection_pool_maxsize = CONNECTIONS
    return configuration


def without_absent(value: Any) -> Any:
    """Return a manifest without the fields that are to be absent."""
    if isinstance(value, dict):
        return {key: without_absent(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_absent(item) for item in value]
    return value


def kind_of(manifest: Manifest) -> str:
    """Say which of `KINDS` an object is; two API groups have a Tunnel."""
    if manifest["kind"] == "Tunnel" and manifest.get("apiVersion", "").startswith("uplink.inlets.dev/"):
        return "InletsTunnel"
    return str(manifest["kind"])


def _path_of(manifest: Manifest, *, name: bool = True) -> str:
    metadata = manifest["metadata"]
    return KINDS[kind_of(manifest)].path(metadata.get("namespace", ""), metadata["name"] if name else "")


def _refusal_of(error: ApiException) -> ApiRefused | Unreachable:
    try:
        said = json.loads(error.body or "{}")
    except ValueError:
        said = {}
    if not isinstance(said, dict):
        said = {}
    message = " ".join(str(said.get("message") or error.reason or "").split())
    status = int(error.status or 0)
    if status in (429, 500, 502, 503, 504) or not status:
        return Unreachable(message or f"HTTP {status}")
    causes = (said.get("details") or {}).get("causes") or []
    return ApiRefused(
        status, str(said.get("reason", "")), message[:1000], tuple(str(cause.get("reason", "")) for cause in causes)
    )
