"""What the paths lead to: an iperf3 server, and nginx with one small page."""

from enum import Enum
from pathlib import Path

from quickstart.checks import answers_http
from quickstart.children import Children, Command
from quickstart.ports import LOOPBACK, find_free_port

READY_SECONDS = 10.0
BODY_SIZE = 100  # bytes

NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000; client_body_temp_path {directory}; proxy_temp_path {directory};
    fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
    server {{ listen {host}:{port}; default_type text/plain; location / {{ return 200 "{body}"; }} }}
}}
"""


class Service(Enum):
    """A server that every path leads to, each on a port of its own."""

    IPERF3 = "iperf3"
    NGINX = "nginx"


Ports = dict[Service, int]


async def start_services(children: Children, directory: Path) -> Ports:
    """Start both servers and wait until they answer; *directory* takes their files. Returns their ports."""
    ports = {service: find_free_port() for service in Service}
    iperf3 = ["iperf3", "--server", "--bind", LOOPBACK, "--port", str(ports[Service.IPERF3])]
    await children.start("iperf3-server", Command(iperf3))
    configuration = directory / "nginx.conf"
    configuration.write_text(
        NGINX.format(directory=directory, host=LOOPBACK, port=ports[Service.NGINX], body="x" * BODY_SIZE)
    )
    await children.start("nginx", Command(["nginx", "-e", "stderr", "-p", directory, "-c", configuration]))

    await wait_until_served(children, "nginx", ports)
    return ports


async def wait_until_served(children: Children, name: str, ports: Ports) -> None:
    """Wait until nginx and iperf3 answer on *ports*, where *name* is the process that has to see to it."""

    async def nginx_answers() -> bool:
        return await answers_http(ports[Service.NGINX], "/") == b"x" * BODY_SIZE

    async def iperf3_answers() -> bool:
        probe = ["iperf3", "--client", LOOPBACK, "--port", str(ports[Service.IPERF3]), "--bytes", "1"]
        return await children.attempt("iperf3-probe", Command(probe)) == 0

    await children.wait_ready(name, nginx_answers, READY_SECONDS)
    await children.wait_ready(name, iperf3_answers, READY_SECONDS)
