"""One installation of Moorline: what the quickstart starts, and gateways, tunnels and clients of a test beside it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstart.checks import answers_http
from quickstart.children import Children
from quickstart.ports import LOOPBACK
from quickstart.postgres import PostgresSite, find_site
from quickstart.provider import Provider
from quickstart.settings import CHECKOUT, Settings
from quickstart.site import Site
from quickstart.state import State
from tests.gateway.conftest import until

from .programs import MOORLINE, Program, Programs, choose_port, listens

HTTP = 8000  # the tunnel's port for HTTP


@dataclass(frozen=True)
class Gateway:
    """A process that serves portal and gateway."""

    program: Program
    name: str
    port: int

    def url(self, tunnel: str, port: int | None = None) -> str:
        return f"ws://{LOOPBACK}:{port or self.port}/{tunnel}"


@dataclass(frozen=True)
class Line:
    """A tunnel with one token; *listeners* says where gateways listen for each of its ports."""

    name: str
    tunnel_id: int
    listeners: Mapping[int, int]
    token_id: int
    token: str
    token_file: Path

    @property
    def port(self) -> int:
        """Where gateways listen for the first TCP port."""
        return next(listener for port, listener in self.listeners.items() if port != HTTP)


class Staff:
    """The process of tests/system/staff.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def do(self, name: str, *arguments: Any) -> Any:
        """Have one of its functions called, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn, asyncio.timeout(30):
            self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
            well, answer = json.loads(await self._process.stdout.readline())
        assert well, answer
        return answer

    async def stop(self) -> None:
        self._process.kill()
        await self._process.wait()


class Installation(Provider):
    """Portal, gateway, Valkey, and the example customer with PostgreSQL and its client on acmeco/prod."""

    def __init__(self, directory: Path) -> None:
        settings = Settings(portal_port=choose_port(), tcp_port=choose_port(), http_port=choose_port())
        state = State(directory)
        super().__init__(settings, state, Children(state.logs))
        self.settings = settings
        self.state = state
        self.postgres: PostgresSite
        self.staff: Staff
        self._site = Site(settings, state, self._children)
        self._numbers = itertools.count(1)

    @property
    def logs(self) -> Path:
        return self.state.logs

    @property
    def postgres_address(self) -> str:
        """Where PostgreSQL listens in the customer's network: the fourth line of its file tells the port."""
        return f"{LOOPBACK}:{(self.postgres.cluster / 'postmaster.pid').read_text().splitlines()[3]}"

    async def start(self) -> None:
        """Start all of it; returns when psql and both HTTP services answer through the tunnel."""
        await asyncio.gather(self._start_provider(), self._site.start_postgres(), self._site.start_services())
        self.postgres = find_site(self.state)
        await self._site.start_client(self.token_file)
        await self._site.check_tunnel()

    async def _start_provider(self) -> None:
        await self.start_valkey()
        await self.migrate()
        await self.make_tunnel()
        await self.start_portal()
        with (self.logs / "staff.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.system.staff"),
                cwd=CHECKOUT,
                env={**os.environ, "MOORLINE_SECRET_KEY": "", **self._environment},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 20,
            )
        self.staff = Staff(process)

    async def stop(self) -> None:
        """Kill all of it."""
        if hasattr(self, "staff"):
            await self.staff.stop()
        self._children.hurry()
        await self._children.stop()

    async def start_gateway(
        self,
        programs: Programs,
        *,
        name: str = "",
        port: int = 0,
        bind: str = LOOPBACK,
        drain: float = 5,
        **variables: str,
    ) -> Gateway:
        """Start one more portal with gateway on this installation's rows.

        Arguments: the *name* and *port* to take again after another process; *drain* in seconds; *variables* of its
        environment, without their prefix.
        """
        port = port or choose_port()
        name = name or f"gateway-{next(self._numbers)}"
        environment = {**self._environment, "MOORLINE_PORT": str(port), "MOORLINE_GATEWAY_NAME": name}
        environment |= {f"MOORLINE_{key}": value for key, value in variables.items()}
        serve = ("serve", "--role", "all", "--bind", bind, "--port", str(port), "--drain-timeout", str(drain))
        program = await programs.start(name, sys.executable, "manage.py", *serve, environment=environment)

        async def ready() -> bool:
            assert program.running, program.read_log()
            return bind != LOOPBACK or await answers_http(port, "/readyz") is not None

        await until(ready, lambda: f"a gateway that is ready:\n{program.read_log()}", 30)
        if bind != LOOPBACK:
            await program.wait_for("listening on")
        return Gateway(program, name, port)

    async def make_line(
        self, *ports: int, customer: str = "acmeco", hosts: tuple[str, ...] = (), **limits: int
    ) -> Line:
        """Make a tunnel with the TCP *ports* and a token for its client."""
        tunnel = f"line{next(self._numbers)}"
        listeners: dict[int, int] = {}
        for port in (*ports, HTTP):
            while (listener := choose_port()) in listeners.values():
                pass
            listeners[port] = listener
        made = await self.staff.do("create_tunnel", customer, tunnel, listeners, hosts, limits)
        minted = await self.staff.do("mint_token", made["tunnel_id"])
        token_file = self.state.write_private(f"{tunnel}.token", minted["token"] + "\n")
        return Line(
            f"{customer}/{tunnel}", made["tunnel_id"], listeners, minted["token_id"], minted["token"], token_file
        )

    async def start_client(
        self,
        programs: Programs,
        line: Line,
        gateway: Gateway | str,
        *upstreams: str,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> Program:
        """Start the client of *line* and wait until the gateway listens for it.

        Arguments: the *gateway*, or the URL by which it is reached; the *upstreams* as on the command line.
        """
        url = gateway if isinstance(gateway, str) else gateway.url(line.name)
        words = [word for upstream in upstreams for word in ("--upstream", upstream)]
        words += ["--url", url, "--token-file", str(line.token_file), *options]
        client = await self.run_client(programs, *words, environment=environment, prefix=prefix)
        await self.wait_for_client(client, line)
        return client

    async def run_client(
        self,
        programs: Programs,
        *words: str,
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> Program:
        """Start the real client with *words* on its command line, behind the command *prefix*."""
        return await programs.start("client", *prefix, MOORLINE, "client", *words, environment=environment)

    async def wait_for_client(self, client: Program, line: Line) -> None:
        """Wait until *client* is connected and a gateway listens for its *line*."""
        await client.wait_for("connected: tunnel")
        await wait_for_listeners(line)

    async def live_session(self, line: Line) -> dict[str, Any]:
        """Return the one session that the portal shows as live."""

        async def find() -> dict[str, Any] | None:
            live = [session for session in await self.staff.do("list_sessions", line.tunnel_id) if session["live"]]
            return live[0] if len(live) == 1 else None

        found: dict[str, Any] = await until(find, f"one live session of {line.name}")
        return found


async def wait_for_listeners(line: Line, bound: float = 20.0) -> None:
    """Wait until a gateway listens for *line*: HTTP is the last of its ports to be bound."""
    await until(listens(line.listeners[HTTP]), f"the listeners of {line.name}", bound)
