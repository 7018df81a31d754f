"""An installation of Moorline in a cluster, as tests and the bench set it up."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from django.utils import timezone

from portal.models import Gateway, Session, Tunnel
from portal.services.gateways import register_gateway
from portal.services.sessions import open_session
from portal.services.tokens import mint_token
from tests.chart.helm import CHART, DOMAIN, run_helm
from tests.cluster.apiserver import ApiServer
from tests.conftest import STAFF

RELEASE = "moorline"
LISTEN_PORTS = range(20000, 20100)
WORKER = f"system:serviceaccount:{RELEASE}:{RELEASE}-worker"


def render_chart(template: str, *values: str) -> str:
    """Return what one template of the chart makes of these values."""
    words = [word for value in (f"domain={DOMAIN}", *values) for word in ("--set", value)]
    ended = run_helm("template", RELEASE, CHART, "--namespace", RELEASE, "--show-only", f"templates/{template}", *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def add_definitions(cluster: ApiServer) -> None:
    """Have the cluster know the Tunnel resources, of both groups."""
    cluster.kubectl("apply", "-f", "-", input=render_chart("crds.yaml", "inletsCompatible=true"))
    names = ["crd/tunnels.moorline.dev", "crd/tunnels.uplink.inlets.dev"]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=20s", *names)


def make_worker_kubeconfig(cluster: ApiServer) -> Path:
    """Return the kubeconfig of a worker's service account, with the rights that the chart gives it."""
    kubeconfig = cluster.make_kubeconfig(f"{RELEASE}-worker", RELEASE)
    cluster.kubectl("apply", "-f", "-", input=render_chart("rbac.yaml", "inletsCompatible=true"))
    return kubeconfig


def start_gateway(name: str, address: str) -> Gateway:
    """Have a gateway speak of itself."""
    return register_gateway(name=name, address=address, hop_port=8001, version="1", customers=[])


def connect_client(tunnel: Tunnel, gateway: Gateway) -> Session:
    """Have a client connect to a gateway."""
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
