"""A gateway in a process of its own, as a test starts it: ``python -m tests.gateway.process KIND``.

KIND says which ASGI server runs it: ``native`` (our Daphne with the hand-over), ``daphne`` (without it) or ``uvicorn``.
The directory of tunnels and tokens is in memory; the first line of standard input describes it, later lines command.
Every line of standard output is one JSON document.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import sys
import threading
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import uvloop
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import re_path

from tunnels.endpoint import Timing
from tunnels.gateway.addresses import parse_networks
from tunnels.gateway.directory import GatewayReport, Notice, Refused, Route, SessionReport, Usage
from tunnels.gateway.gateway import Gateway
from tunnels.gateway.options import GatewayOptions
from tunnels.protocol import Target

kind = sys.argv[1]


@dataclass(frozen=True)
class MemoryGrant:
    customer: str
    tunnel: str
    tunnel_id: str
    token_id: str
    tcp_ports: dict[int, int]
    http_port: int = 0
    hosts: tuple[str, ...] = ()
    revision: int = 1
    max_sessions: int = 16
    max_streams: int = 4096


class MemoryDirectory:
    """What the portal would answer, from a dictionary of tokens."""

    def __init__(self, tunnels: list[dict[str, Any]]) -> None:
        self.tunnels = {(t["customer"], t["tunnel"]): t for t in tunnels}
        self.revoked: set[str] = set()
        self.broken = False
        self.changed: asyncio.Queue[Notice] = asyncio.Queue()

    async def authorize(self, customer: str, tunnel: str, token: str, address: str) -> MemoryGrant:
        if self.broken:
            raise RuntimeError("the database is down")
        owner = next((t for t in self.tunnels.values() if token and token in t["tokens"]), None)
        if owner is None:
            raise Refused(401, "This token is not known.")
        if token in self.revoked:
            raise Refused(403, "This token was revoked.")
        if (customer, tunnel) not in self.tunnels:
            raise Refused(404, "There is no such tunnel.")
        if self.tunnels[customer, tunnel] is not owner:
            raise Refused(403, "This token belongs to another tunnel.")
        return self.grant(owner, token)

    def grant(self, t: dict[str, Any], token: str) -> MemoryGrant:
        return MemoryGrant(
            customer=t["customer"],
            tunnel=t["tunnel"],
            tunnel_id=f"{t['customer']}/{t['tunnel']}",
            token_id=token,
            tcp_ports=dict.fromkeys(t["tcp_ports"], 0),
            revision=t.get("revision", 1),
            max_sessions=t.get("max_sessions", 16),
            max_streams=t.get("max_streams", 4096),
        )

    async def renew(self, grant: MemoryGrant) -> MemoryGrant:
        if self.broken:
            raise RuntimeError("the database is down")
        if grant.token_id in self.revoked:
            raise Refused(403, "This token was revoked.")
        return self.grant(self.tunnels[grant.customer, grant.tunnel], grant.token_id)

    async def gateway_started(self, report: GatewayReport) -> None:
        say(event="started", gateway=report.name)

    async def gateway_draining(self, gateway: str) -> None:
        say(event="draining", gateway=gateway)

    async def gateway_stopped(self, gateway: str) -> None:
        say(event="gone", gateway=gateway)

    async def session_opened(self, report: SessionReport) -> None:
        say(
            event="opened",
            session=report.session_id,
            tunnel=report.tunnel_id,
            transport=report.transport,
            address=report.client_address,
            version=report.client_version,
        )

    async def session_closed(self, session_id: str, code: str, reason: str, usage: Usage) -> None:
        carried = [usage.bytes_received, usage.bytes_sent]
        say(event="closed", session=session_id, code=code, reason=reason, carried=carried)

    async def heartbeat(self, report: GatewayReport, sessions: Mapping[str, Usage]) -> None:
        pass

    async def routes(self, tunnel_ids: Collection[str] | None) -> list[Route]:
        raise AssertionError("a gateway without others asked who they are")

    async def changes(self) -> AsyncGenerator[Notice, None]:
        while True:
            yield await self.changed.get()


def say(**document: object) -> None:
    print(json.dumps(document), flush=True)


class Commands:
    """What standard input may ask for, on the gateway's own loop."""

    def __init__(self, gateway: Gateway, directory: MemoryDirectory) -> None:
        self.gateway = gateway
        self.directory = directory

    def run(self, command: dict[str, Any]) -> None:
        name, number = command.pop("do"), command.pop("number")
        getattr(self, name)(**command)
        say(event="done", number=number)

    def revoke(self, token: str) -> None:
        self.directory.revoked.add(token)
        for tunnel in self.directory.tunnels.values():
            self.directory.changed.put_nowait(Notice(f"{tunnel['customer']}/{tunnel['tunnel']}"))

    def change(self, tunnel: str, tcp_ports: list[int]) -> None:
        row = self.directory.tunnels[tuple(tunnel.split("/"))]
        row["tcp_ports"] = tcp_ports
        row["revision"] = row.get("revision", 1) + 1
        self.directory.changed.put_nowait(Notice(tunnel))

    def break_directory(self, broken: bool) -> None:
        self.directory.broken = broken

    def probe(self, tunnel: str, port: int) -> None:
        async def ask() -> None:
            result = await self.gateway.probe(*tunnel.split("/"), Target(port), 5.0)
            say(event="probed", code=result.code.name, reason=result.reason)

        self.task = asyncio.get_running_loop().create_task(ask())

    def stats(self) -> None:
        gc.collect()
        tunnels = {
            str(live): {
                "sessions": len(live.sessions),
                "streams": live.streams,
                "held": sum(len(s.endpoint.session.streams) for s in live.sessions if s.endpoint.transport),
                "ports": {port: live.listening_on(Target(port)) for port in live.layout.tcp_ports},
                "http": live.listening_on(Target(8000, "*")),
            }
            for live in self.gateway.registry
        }
        with open("/proc/self/statm") as statm:
            rss = int(statm.read().split()[1]) * resource.getpagesize()
        say(
            event="stats",
            tunnels=tunnels,
            descriptors=len(os.listdir("/proc/self/fd")),
            tasks=len(asyncio.all_tasks()),
            rss=rss,
        )


def listen_to_commands(loop: asyncio.AbstractEventLoop, commands: Commands) -> None:
    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(commands.run, json.loads(line))
        os._exit(3)  # the test is gone

    threading.Thread(target=read, daemon=True).start()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("daphne").setLevel(logging.WARNING)
    description = json.loads(sys.stdin.readline())
    settings.configure(ALLOWED_HOSTS=["*"])
    directory = MemoryDirectory(description["tunnels"])
    options = GatewayOptions(
        name="gateway-0",
        timing=Timing(**description.get("timing", {})),
        trusted_proxies=parse_networks(description.get("trusted_proxies", "")),
    )
    gateway = Gateway(directory, options)
    commands = Commands(gateway, directory)
    routes = URLRouter([re_path(r"^(?P<customer>[^/]*)/(?P<tunnel>[^/]*)$", gateway)])
    application = ProtocolTypeRouter({"http": routes, "websocket": routes})
    if kind == "uvicorn":
        uvloop.run(run_uvicorn(application, gateway, commands))
        return

    # Imported here: it installs Twisted's reactor and chooses the event loop, which uvicorn does by itself.
    from tunnels.gateway.server import TunnelServer, run_server, twisted_loop

    class Server(TunnelServer):
        def listen_success(self, port: Any) -> None:
            super().listen_success(port)
            listen_to_commands(twisted_loop, commands)
            say(event="ready", port=self.port)

    server = Server(application, host="127.0.0.1", port=0, native=kind == "native")
    failure = run_server(server, gateway, drain_timeout=description.get("drain_timeout", 5.0))
    say(event="stopped", failure=failure)


async def run_uvicorn(application: Any, gateway: Gateway, commands: Commands) -> None:
    import uvicorn

    config = uvicorn.Config(
        application, host="127.0.0.1", port=0, lifespan="off", log_level="warning", ws_ping_interval=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    listen_to_commands(asyncio.get_running_loop(), commands)
    say(event="ready", port=server.servers[0].sockets[0].getsockname()[1])
    await serving
    await gateway.stop()
    say(event="stopped", failure=None)


if __name__ == "__main__":
    main()
