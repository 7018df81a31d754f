"""A cluster with the chart's resources and rights, and a reconciler that has these rights and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import LazySettings

from portal.cluster.api import connect
from portal.cluster.spec import read_installation
from portal.cluster.target import KubernetesTarget
from tests.cluster.apiserver import ApiServer
from tests.cluster.installation import LISTEN_PORTS, add_definitions, make_worker_kubeconfig


@pytest.fixture(scope="session")
def cluster(api_server: ApiServer) -> ApiServer:
    """An API server that knows the Tunnel resources, of both groups."""
    add_definitions(api_server)
    return api_server


@pytest.fixture(scope="session")
def worker_kubeconfig(cluster: ApiServer) -> Path:
    """Of the service account that workers have, with the rights that the chart gives it."""
    return make_worker_kubeconfig(cluster)


@pytest.fixture
def target(cluster: ApiServer, worker_kubeconfig: Path, settings: LazySettings) -> KubernetesTarget:
    """What a worker reconciles to, as an installation of its own."""
    settings.MOORLINE_TARGET = "kubernetes"
    settings.MOORLINE_KUBECONFIG = str(worker_kubeconfig)
    settings.MOORLINE_INSTALLATION = cluster.make_name("installation")
    settings.MOORLINE_NAMESPACE = cluster.make_namespace("gateways")
    settings.MOORLINE_LISTEN_PORTS = LISTEN_PORTS
    settings.MOORLINE_NETWORK_POLICIES = True
    settings.MOORLINE_INLETS_COMPATIBLE = True
    return KubernetesTarget(connect(), read_installation(), LISTEN_PORTS)
