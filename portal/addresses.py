"""What people and clients type to reach a tunnel."""

from __future__ import annotations

from django.conf import settings

from portal.models import Tunnel, TunnelPort


def service_name(tunnel: Tunnel) -> str:
    """Name the tunnel as it is called inside the cluster, as ``prod.acmeco``."""
    return f"{tunnel.name}.{tunnel.customer.name}"


def client_url(tunnel: Tunnel) -> str:
    """Give the URL that a client dials."""
    # http becomes ws, https becomes wss.
    return f"ws{settings.MOORLINE_PUBLIC_URL.removeprefix('http')}/{tunnel}"


def client_command(tunnel: Tunnel, token: str) -> str:
    """Give the command line that starts a client, with an example upstream for each port and host name.

    The token goes through the environment, where the process list does not show it. Nothing needs quoting: names and
    tokens hold no character that a shell minds.
    """
    ports = tunnel.ports.filter(kind=TunnelPort.Kind.TCP).values_list("port", flat=True)
    hosts = tunnel.hosts.values_list("name", flat=True)
    upstreams = [f"127.0.0.1:{port}" for port in ports] + [f"{host}=http://127.0.0.1:80" for host in hosts]
    lines = [f"MOORLINE_TOKEN={token} moorline client", f"--url {client_url(tunnel)}"]
    return " \\\n  ".join(lines + [f"--upstream {upstream}" for upstream in upstreams])
