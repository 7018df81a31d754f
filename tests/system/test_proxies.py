"""The client's way through what stands between it and the gateway: an ingress with TLS, an HTTP proxy."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio
from psycopg import AsyncConnection, OperationalError

from quickstart.certificates import write_certificate
from quickstart.ports import LOOPBACK
from tests.gateway.conftest import until
from tests.programs import require_program

from .installation import Gateway, Installation, Line
from .programs import Program, Programs, accepts, choose_port, listens
from .psql import connect, run_psql

pytestmark = pytest.mark.wide

IDLE = 180.0  # seconds
ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"

# What an ingress controller writes for a WebSocket; time-outs of connections as nginx has them: 60 s without a byte.
NGINX = """\
daemon off;
worker_shutdown_timeout 2s;  # ingress controllers set it too, to minutes: then a reload cuts what is still open
pid {directory}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {directory}/ingress.crt;
        ssl_certificate_key {directory}/ingress.key;
        location / {{
            proxy_pass http://127.0.0.1:{gateway};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""

TINYPROXY = """\
Port {port}
Listen 127.0.0.1
Timeout 600
Allow 127.0.0.1
ConnectPort {allowed}
LogLevel Connect
"""


@dataclass
class Ingress:
    """An nginx with TLS before a gateway."""

    program: Program
    port: int
    directory: Path

    @property
    def ca_file(self) -> str:
        return str(self.directory / "ingress.crt")

    def url(self, line: Line) -> str:
        return f"wss://{LOOPBACK}:{self.port}/{line.name}"

    def reload(self) -> None:
        """Have nginx read its configuration again: new workers take new connections, the old ones end soon."""
        command = [require_program("nginx"), "-c", self.directory / "nginx.conf", "-p", self.directory, "-s", "reload"]
        subprocess.run(command, check=True, capture_output=True, timeout=20)


async def start_nginx(programs: Programs, directory: Path) -> Program:
    return await programs.start("nginx", require_program("nginx"), "-c", directory / "nginx.conf", "-p", directory)


@pytest_asyncio.fixture(loop_scope="session")
async def ingress(programs: Programs, gateway: Gateway, tmp_path: Path) -> Ingress:
    port = choose_port()
    write_certificate(tmp_path / "ingress.crt", tmp_path / "ingress.key", ["gateway.provider.example"])
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(NGINX.format(directory=tmp_path, port=port, gateway=gateway.port))
    program = await start_nginx(programs, tmp_path)
    await until(listens(port), lambda: f"nginx:\n{program.read_log()}")
    return Ingress(program, port, tmp_path)


@pytest_asyncio.fixture(loop_scope="session")
async def line(installation: Installation) -> Line:
    """A tunnel for PostgreSQL."""
    return await installation.make_line(25060)


def serve_postgres(installation: Installation) -> str:
    return f"25060={installation.postgres_address}"


@pytest.mark.timeout(300)
async def test_through_an_ingress_psql_works_and_an_idle_session_stays_the_same(
    installation: Installation, programs: Programs, ingress: Ingress, line: Line
) -> None:
    client = await installation.start_client(
        programs, line, ingress.url(line), serve_postgres(installation), options=("--ca-file", ingress.ca_file)
    )
    session = await installation.live_session(line)
    async with await connect(line.port) as connection:
        assert await run_psql(line.port, "-c", ENCRYPTED, PGSSLMODE="require") == "t"
        # Nobody says anything for three times as long as nginx waits for a byte.
        idle_until = monotonic() + IDLE
        await until(lambda: not client.running or monotonic() > idle_until, "the time to pass", IDLE + 30)
        assert await (await connection.execute("SELECT 'still here'")).fetchone() == ("still here",)
    assert await run_psql(line.port, "-c", "SELECT 'and new'") == "and new"
    assert (await installation.live_session(line))["id"] == session["id"]
    assert len(await installation.staff.do("list_sessions", line.tunnel_id)) == 1
    assert not client.find("not connected")


async def ask_for_ever(connection: AsyncConnection[Any]) -> None:
    async with asyncio.timeout(20):
        while True:
            await connection.execute("SELECT 1")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["reload", "restart"])
async def test_the_client_comes_back_by_itself_after_the_ingress_was(
    how: str, installation: Installation, programs: Programs, ingress: Ingress, line: Line
) -> None:
    client = await installation.start_client(
        programs, line, ingress.url(line), serve_postgres(installation), options=("--ca-file", ingress.ca_file)
    )
    after = len(client.read_log())
    async with await connect(line.port) as connection:
        if how == "reload":
            ingress.reload()
        else:
            await ingress.program.end_group()
        with pytest.raises(OperationalError):
            await ask_for_ever(connection)
    await client.wait_for("not connected", "next attempt in", after=after)
    if how == "restart":
        await start_nginx(programs, ingress.directory)
    await client.wait_for("connected: tunnel", after=after, bound=60)
    await until(listens(line.port), "the listener")
    assert await run_psql(line.port, "-c", "SELECT 1") == "1"


async def test_an_ingress_whose_ca_nobody_gave_is_not_trusted(
    installation: Installation, programs: Programs, ingress: Ingress, line: Line
) -> None:
    words = ("--url", ingress.url(line), "--token-file", str(line.token_file), "--upstream", "1=127.0.0.1:1")
    client = await installation.run_client(programs, *words)
    await client.wait_for("not connected", "certificate", "--ca-file")
    assert not accepts(line.port)


@pytest.mark.parametrize("scheme", ["wss", "ws"])
async def test_through_an_http_proxy_with_connect_psql_works(
    scheme: str,
    installation: Installation,
    programs: Programs,
    gateway: Gateway,
    ingress: Ingress,
    line: Line,
    tmp_path: Path,
) -> None:
    port = choose_port()
    allowed = ingress.port if scheme == "wss" else gateway.port
    configuration = tmp_path / "tinyproxy.conf"
    configuration.write_text(TINYPROXY.format(port=port, allowed=allowed))
    proxy = await programs.start("tinyproxy", require_program("tinyproxy"), "-d", "-c", configuration)
    await until(listens(port), lambda: f"tinyproxy:\n{proxy.read_log()}")
    variable = "HTTPS_PROXY" if scheme == "wss" else "HTTP_PROXY"
    url = ingress.url(line) if scheme == "wss" else gateway.url(line.name)
    await installation.start_client(
        programs, line, url, serve_postgres(installation), options=("--ca-file", ingress.ca_file),
        environment={variable: f"http://{LOOPBACK}:{port}"},
    )  # fmt: skip
    assert await run_psql(line.port, "-c", ENCRYPTED, PGSSLMODE="require") == "t"
    assert await proxy.wait_for("CONNECT", f"{LOOPBACK}:{allowed}")
