"""What people and clients type to reach a tunnel."""

from __future__ import annotations

from ipaddress import ip_address

from django.conf import settings

from portal.models import Tunnel, TunnelPort

EXAMPLE_ADDRESS = "192.168.1.10"
# The token is pasted when this waits for it: neither the shell's history nor the process list shows it.
TOKEN_COMMAND = "read -rs MOORLINE_TOKEN && export MOORLINE_TOKEN"  # noqa: S105 - a command


def service_name(tunnel: Tunnel) -> str:
    """Name the tunnel as it is called inside the cluster, as ``prod.acmeco``."""
    return f"{tunnel.name}.{tunnel.customer.name}"


def client_url(tunnel: Tunnel) -> str:
    """Give the URL that a client dials."""
    # http becomes ws, https becomes wss.
    return f"ws{settings.MOORLINE_CONNECT_URL.removeprefix('http')}/{tunnel}"


def listeners(tunnel: Tunnel) -> str:
    """Say on which number gateways listen for each port, such as ``HTTP 8000 on 8001, TCP 25060 on 25060``."""
    return ", ".join(f"{port} on {port.listen_port or 'no number: none is free'}" for port in tunnel.ports.all())


def local_addresses(tunnel: Tunnel) -> list[tuple[str, str]]:
    """Say where the gateway of this machine answers, as pairs such as ``("TCP 25060", "127.0.0.1:25060")``.

    Nothing is said where gateways listen on every address: those are the gateways of a cluster.
    """
    host = ip_address(settings.MOORLINE_LISTEN_HOST)
    if host.is_unspecified or settings.MOORLINE_TARGET != "local":
        return []
    shown = f"[{host}]" if host.version == 6 else str(host)
    return [
        ("HTTP" if port.kind == TunnelPort.Kind.HTTP else str(port), f"{shown}:{port.listen_port}")
        for port in tunnel.ports.all()
        if port.listen_port is not None
    ]


def client_command(tunnel: Tunnel) -> str:
    """Give the command line that starts a client, with an example upstream for each port and host name.

    The client reads the token from the environment. The address is to be replaced: on one machine a loopback address
    with the tunnel's own number would be the gateway itself. Nothing needs quoting: names hold no character that a
    shell minds.
    """
    ports = tunnel.ports.filter(kind=TunnelPort.Kind.TCP).values_list("port", flat=True)
    hosts = tunnel.hosts.values_list("name", flat=True)
    upstreams = [f"{port}={EXAMPLE_ADDRESS}:{port}" for port in ports]
    upstreams += [f"{host}=http://{EXAMPLE_ADDRESS}:80" for host in hosts]
    lines = ["moorline client", f"--url {client_url(tunnel)}", *(f"--upstream {upstream}" for upstream in upstreams)]
    return " \\\n  ".join(lines)
