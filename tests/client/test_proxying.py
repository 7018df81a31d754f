"""The way to the gateway leads through a proxy where the environment says so."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pwd
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client.certificates import PrivateCA
from tests.client.conftest import Log, StartClient, StartService
from tests.client.gateway import InProcessGateway, ask, echo
from tests.client.waiting import until
from tests.programs import require_program
from tunnels.protocol import Target

CREDENTIALS = "Basic " + base64.b64encode(b"user:p@ss").decode()


class ConnectProxy:
    """A small HTTP proxy that knows CONNECT; names lead to this machine."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.credentials = ""
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.splitlines()[0].split()
            assert method == "CONNECT"
            self.targets.append(target)
            if self.credentials and f"Proxy-Authorization: {self.credentials}" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            else:
                there, back = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_copy(reader, back), _copy(there, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy()
    await proxy.start()
    yield proxy
    await proxy.stop()


async def test_ws_takes_http_proxy_and_leaves_the_name_to_it(
    gateway: InProcessGateway,
    start_client: StartClient,
    start_service: StartService,
    proxy: ConnectProxy,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    service = await start_service(echo)
    start_client(f"1={service.address}", url=f"ws://gateway.invalid:{gateway.port}/acmeco/prod")
    await gateway.wait_for_session()
    assert proxy.targets == [f"gateway.invalid:{gateway.port}"]
    assert await ask(gateway.listen(Target(1)), b"x" * 300_000) == b"x" * 300_000
    assert log.find("debug", f"through the proxy 127.0.0.1:{proxy.port}")


async def test_wss_takes_https_proxy_and_checks_the_certificate_behind_it(
    gateway: InProcessGateway,
    start_client: StartClient,
    proxy: ConnectProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = PrivateCA(tmp_path, "authority")
    await gateway.kill()
    await gateway.start(authority.server_context("gateway.invalid"))
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
    url = f"wss://gateway.invalid:{gateway.port}/acmeco/prod"
    start_client("1=127.0.0.1:1", url=url, ca_file=str(authority.path))
    await gateway.wait_for_session()
    assert proxy.targets == [f"gateway.invalid:{gateway.port}"]


async def test_credentials_go_to_the_proxy_and_into_no_log(
    gateway: InProcessGateway, start_client: StartClient, proxy: ConnectProxy, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.credentials = CREDENTIALS
    monkeypatch.setenv("ALL_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
    start_client("1=127.0.0.1:1")
    await gateway.wait_for_session()
    assert "p%40ss" not in log.text
    assert "p@ss" not in log.text


async def test_a_proxy_that_wants_credentials_is_told(
    gateway: InProcessGateway, start_client: StartClient, proxy: ConnectProxy, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.credentials = CREDENTIALS
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    start_client("1=127.0.0.1:1")
    await log.wait_for("warning", f"the proxy 127.0.0.1:{proxy.port} asks for credentials (407)")
    assert not gateway.requests


async def test_a_proxy_that_is_not_there_is_told(
    gateway: InProcessGateway, start_client: StartClient, log: Log, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port}")
    start_client("1=127.0.0.1:1")
    await log.wait_for("warning", f"the proxy 127.0.0.1:{unused_port} refuses the connection")


async def test_no_proxy_leads_around_it(
    gateway: InProcessGateway, start_client: StartClient, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "example.com, 127.0.0.0/8")
    start_client("1=127.0.0.1:1")
    await gateway.wait_for_session()
    assert proxy.targets == []


@pytest.mark.wide
async def test_a_real_proxy_lets_the_line_pass(
    gateway: InProcessGateway,
    start_client: StartClient,
    start_service: StartService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unused_port: int,
) -> None:
    configuration = tmp_path / "tinyproxy.conf"
    user = pwd.getpwuid(os.getuid()).pw_name
    configuration.write_text(
        f"User {user}\nPort {unused_port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 10\nAllow 127.0.0.1\n"
        f'ConnectPort {gateway.port}\nLogFile "{tmp_path}/tinyproxy.log"\n'
    )
    process = subprocess.Popen([require_program("tinyproxy"), "-d", "-c", str(configuration)])
    try:
        await until(lambda: _listens(unused_port), "tinyproxy")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port}")
        service = await start_service(echo)
        start_client(f"1={service.address}")
        await gateway.wait_for_session()
        assert await ask(gateway.listen(Target(1)), b"x" * 5_000_000, timeout=30) == b"x" * 5_000_000
        assert "CONNECT" in (tmp_path / "tinyproxy.log").read_text()
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
