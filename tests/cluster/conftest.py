"""A cluster with the chart's resources and rights, and a reconciler that has these rights and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import LazySettings

from portal.cluster.api import connect
from portal.cluster.spec import read_installation
from portal.cluster.target import KubernetesTarget
from portal.models import Gateway, Session, Tunnel
from portal.services.gateways import register_gateway
from portal.services.sessions import open_session
from tests.chart.helm import CHART, DOMAIN, run_helm
from tests.cluster.apiserver import ApiServer

RELEASE = "moorline"
LISTEN_PORTS = range(20000, 20100)


def render_chart(template: str, *values: str) -> str:
    """Return what one template of the chart makes of these values."""
    words = [word for value in (f"domain={DOMAIN}", *values) for word in ("--set", value)]
    ended = run_helm("template", RELEASE, CHART, "--namespace", RELEASE, "--show-only", f"templates/{template}", *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="session")
def cluster(api_server: ApiServer) -> ApiServer:
    """An API server that knows the Tunnel resources, of both groups."""
    api_server.kubectl("apply", "-f", "-", input=render_chart("crds.yaml", "inletsCompatible=true"))
    names = ["crd/tunnels.moorline.dev", "crd/tunnels.uplink.inlets.dev"]
    api_server.kubectl("wait", "--for=condition=Established", "--timeout=20s", *names)
    return api_server


@pytest.fixture(scope="session")
def worker_kubeconfig(cluster: ApiServer) -> Path:
    """Of the service account that workers have, with the rights that the chart gives it."""
    kubeconfig = cluster.make_kubeconfig(f"{RELEASE}-worker", RELEASE)
    cluster.kubectl("apply", "-f", "-", input=render_chart("rbac.yaml"))
    return kubeconfig


@pytest.fixture
def target(cluster: ApiServer, worker_kubeconfig: Path, settings: LazySettings) -> KubernetesTarget:
    """What a worker reconciles to, as an installation of its own."""
    settings.MOORLINE_TARGET = "kubernetes"
    settings.MOORLINE_KUBECONFIG = str(worker_kubeconfig)
    settings.MOORLINE_INSTALLATION = cluster.make_name("installation")
    settings.MOORLINE_NAMESPACE = cluster.make_namespace("gateways")
    settings.MOORLINE_LISTEN_PORTS = LISTEN_PORTS
    settings.MOORLINE_NETWORK_POLICIES = True
    return KubernetesTarget(connect(), read_installation(), LISTEN_PORTS)


def start_gateway(name: str, address: str) -> Gateway:
    """Have a gateway speak of itself."""
    return register_gateway(name=name, address=address, hop_port=8001, version="1", customers=[])


def connect_client(tunnel: Tunnel, gateway: Gateway) -> Session:
    """Have a client connect to a gateway."""
    from uuid import uuid4

    from django.utils import timezone

    from portal.services.tokens import mint_token
    from tests.conftest import STAFF

    token = tunnel.tokens.first() or mint_token(tunnel=tunnel, name="client", actor=STAFF)[0]
    return open_session(
        session_id=uuid4(),
        tunnel_id=tunnel.pk,
        token_id=token.pk,
        gateway=gateway.name,
        client_version="1",
        client_instance="1",
        client_address="192.0.2.7",
        transport="native",
        opened_at=timezone.now(),
    )
