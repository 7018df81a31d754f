"""The API server that the other tests work against."""

from __future__ import annotations

import pytest

from tests.cluster.apiserver import ApiServer

pytestmark = pytest.mark.api


def test_an_account_has_the_rights_that_were_bound_and_not_one_more(api_server: ApiServer) -> None:
    namespace = api_server.make_namespace("rights")
    kubeconfig = api_server.make_kubeconfig("reader", namespace)
    refused = api_server.try_kubectl("-n", namespace, "get", "services", kubeconfig=kubeconfig)
    assert "forbidden" in refused.stderr.lower()

    words = ["--namespace", namespace, "create"]
    api_server.kubectl(*words, "role", "reader", "--verb=list", "--resource=services")
    api_server.kubectl(*words, "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:reader")
    assert api_server.kubectl("-n", namespace, "get", "services", "-o", "name", kubeconfig=kubeconfig) == ""
    refused = api_server.try_kubectl("-n", namespace, "delete", "service", "none", kubeconfig=kubeconfig)
    assert "forbidden" in refused.stderr.lower()


def test_requests_are_counted_by_verb_and_resource(api_server: ApiServer) -> None:
    namespace = api_server.make_namespace("counted")
    since = api_server.mark()
    api_server.kubectl("-n", namespace, "create", "configmap", "one")
    api_server.kubectl("-n", namespace, "delete", "configmap", "one", "--wait=false")
    counted = api_server.count_requests(since)
    assert counted["create", "configmaps"] == 1
    assert counted["delete", "configmaps"] == 1
    assert api_server.count_requests(api_server.mark()) == {}
    assert api_server.count_requests(since, user="somebody") == {}


def test_what_was_written_is_there_when_the_server_comes_back(api_server: ApiServer) -> None:
    namespace = api_server.make_namespace("kept")
    api_server.pause()
    try:
        assert api_server.try_kubectl("get", "namespaces").returncode != 0
    finally:
        api_server.resume()
    assert api_server.read("namespace", namespace)["metadata"]["name"] == namespace
