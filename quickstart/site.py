"""The example customer's site: services that nobody reaches but the Moorline client beside them."""

import os
import sys
from pathlib import Path

from quickstart.checks import answers_as, answers_sql
from quickstart.children import Children, Command
from quickstart.ports import LOOPBACK, find_free_port
from quickstart.postgres import find_site, make_cluster, start_postgres
from quickstart.settings import CHECKOUT, CUSTOMER, DRAIN_SECONDS, HOSTS, TCP_PORT, TUNNEL, Settings
from quickstart.state import State

READY_SECONDS = 30.0


class Site:
    """Start the services of the site and the client that joins them to the tunnel.

    Args:
        settings: the ports.
        state: where everything is kept.
        children: who runs the processes.
    """

    def __init__(self, settings: Settings, state: State, children: Children) -> None:
        self._settings = settings
        self._state = state
        self._children = children
        self._postgres_port = 0
        self._identity_ports: dict[str, int] = {}

    async def start_postgres(self) -> None:
        """Make the PostgreSQL cluster at the first start, and start it."""
        site = find_site(self._state)
        await make_cluster(site, self._children)
        self._postgres_port = find_free_port()
        await start_postgres(site, self._children, self._postgres_port)

    async def start_services(self) -> None:
        """Start the HTTP services."""
        for host in HOSTS:
            port = self._identity_ports[host] = find_free_port()
            command = [sys.executable, "-m", "quickstart", "identity", host, str(port)]
            await self._children.start(host, Command(command, {"PYTHONUNBUFFERED": "1"}, directory=CHECKOUT))

            async def answers(port: int = port, host: str = host) -> bool:
                return await answers_as(port, host)

            await self._children.wait_ready(host, answers, READY_SECONDS)

    async def start_client(self, token_file: Path) -> None:
        """Start the real client.

        Args:
            token_file: the file with its token.
        """
        upstreams = [f"{TCP_PORT}={LOOPBACK}:{self._postgres_port}"]
        upstreams += [f"{host}=http://{LOOPBACK}:{port}" for host, port in self._identity_ports.items()]
        command: list[str | Path] = [
            *(Path(sys.executable).with_name("moorline"), "client"),
            *("--url", f"ws://{LOOPBACK}:{self._settings.portal_port}/{CUSTOMER}/{TUNNEL}"),
            *("--token-file", token_file, "--drain-timeout", str(DRAIN_SECONDS)),
            *(word for upstream in upstreams for word in ("--upstream", upstream)),
        ]
        # Not through the proxy that a developer's machine may have.
        no_proxy = ",".join(filter(None, [LOOPBACK, os.environ.get("NO_PROXY", os.environ.get("no_proxy", ""))]))
        environment = {"PYTHONUNBUFFERED": "1", "NO_PROXY": no_proxy, "no_proxy": no_proxy}
        await self._children.start("client", Command(command, environment, directory=CHECKOUT))

    async def check_tunnel(self) -> None:
        """Wait until every service of the site answers through the tunnel."""

        async def sql() -> bool:
            return await answers_sql(self._children, self._settings.tcp_port)

        await self._children.wait_ready("client", sql, READY_SECONDS)
        for host in HOSTS:

            async def answers(host: str = host) -> bool:
                return await answers_as(self._settings.http_port, host)

            await self._children.wait_ready("client", answers, READY_SECONDS)
