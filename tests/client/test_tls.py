"""TLS to the gateway and to upstreams is checked, and a certificate that does not fit is told in one line."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.client.certificates import PrivateCA
from tests.client.conftest import Log, StartClient, StartService
from tests.client.gateway import InProcessGateway, ask, echo
from tests.client.waiting import until
from tunnels.protocol import ErrorCode, Target


@pytest.fixture
def authority(tmp_path: Path) -> PrivateCA:
    return PrivateCA(tmp_path, "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> PrivateCA:
    return PrivateCA(tmp_path, "stranger")


async def start_tls_gateway(gateway: InProcessGateway, context: ssl.SSLContext) -> str:
    await gateway.kill()
    await gateway.start(context)
    return gateway.url.replace("ws://", "wss://")


async def test_a_gateway_with_a_certificate_of_a_private_ca_is_trusted_with_ca_file(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, authority: PrivateCA
) -> None:
    url = await start_tls_gateway(gateway, authority.server_context("127.0.0.1"))
    service = await start_service(echo)
    start_client(f"1={service.address}", url=url, ca_file=str(authority.path))
    await gateway.wait_for_session()
    assert await ask(gateway.listen(Target(1)), b"x" * 300_000) == b"x" * 300_000


async def test_a_gateway_with_a_certificate_of_another_ca_is_not(
    gateway: InProcessGateway, start_client: StartClient, log: Log, authority: PrivateCA, stranger: PrivateCA
) -> None:
    url = await start_tls_gateway(gateway, stranger.server_context("127.0.0.1"))
    start_client("1=127.0.0.1:1", url=url, ca_file=str(authority.path))
    line = await log.wait_for("warning", "the certificate of 127.0.0.1 is not accepted")
    assert "--ca-file" in line
    assert not gateway.requests  # the token never left


async def test_a_gateway_with_a_certificate_for_another_name_is_not_trusted(
    gateway: InProcessGateway, start_client: StartClient, log: Log, authority: PrivateCA
) -> None:
    url = await start_tls_gateway(gateway, authority.server_context("elsewhere.example"))
    start_client("1=127.0.0.1:1", url=url, ca_file=str(authority.path))
    await log.wait_for("warning", "the certificate is for another name")
    assert not gateway.requests


async def test_wss_to_a_server_without_tls_is_told(
    start_client: StartClient, start_service: StartService, log: Log, authority: PrivateCA
) -> None:
    service = await start_service(echo)
    start_client("1=127.0.0.1:1", url=f"wss://{service.address}/acmeco/prod", ca_file=str(authority.path))
    await log.wait_for("warning", "TLS with 127.0.0.1 failed", "right port")


# -- upstreams --------------------------------------------------------------------------------------------------------


async def test_an_https_upstream_is_reached_by_the_host_name_that_it_serves(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, authority: PrivateCA
) -> None:
    context = authority.server_context("identity1.local")
    names: list[str | None] = []
    context.sni_callback = lambda sock, name, ctx: names.append(name)
    service = await start_service(echo, context=context)
    start_client(f"identity1.local=https://{service.address}", upstream_ca_file=str(authority.path))
    await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(80, "identity1.local")))
    for size in (5, 300_000):
        writer.write(b"x" * size)
        assert await asyncio.wait_for(reader.readexactly(size), 10) == b"x" * size
    assert names == ["identity1.local"]
    writer.close()


async def test_an_https_upstream_for_any_host_must_have_the_certificate_of_its_address(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, authority: PrivateCA
) -> None:
    good = await start_service(echo, context=authority.server_context("127.0.0.1"))
    start_client(f"https://{good.address}", upstream_ca_file=str(authority.path))
    session = await gateway.wait_for_session()
    assert (await session.endpoint.probe(Target(80, "any.local"), 10)).code is ErrorCode.OK


@pytest.mark.parametrize("names", ["identity2.local", "untrusted"])
async def test_an_upstream_whose_certificate_does_not_fit_is_refused_and_told(
    names: str,
    gateway: InProcessGateway,
    start_client: StartClient,
    start_service: StartService,
    log: Log,
    authority: PrivateCA,
    stranger: PrivateCA,
) -> None:
    signer = stranger if names == "untrusted" else authority
    service = await start_service(
        echo, context=signer.server_context("identity1.local" if signer is stranger else names)
    )
    start_client(f"identity1.local=https://{service.address}", upstream_ca_file=str(authority.path))
    session = await gateway.wait_for_session()
    with pytest.raises(ConnectionResetError):
        await ask(gateway.listen(Target(80, "identity1.local")))
    result = await session.endpoint.probe(Target(80, "identity1.local"), 10)
    assert result.code is ErrorCode.UPSTREAM_TLS
    line = await log.wait_for("warning", "its certificate is not accepted", "for identity1.local")
    assert "--upstream-ca-file" in line


async def test_upstream_insecure_goes_without_the_check_and_warns_once(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log, stranger: PrivateCA
) -> None:
    service = await start_service(echo, context=stranger.server_context("elsewhere.example"))
    start_client(f"identity1.local=https://{service.address}", upstream_insecure=True)
    session = await gateway.wait_for_session()
    for _ in range(3):
        assert (await session.endpoint.probe(Target(80, "identity1.local"), 10)).code is ErrorCode.OK
    assert len(log.find("--upstream-insecure")) == 1


async def test_https_to_an_upstream_that_speaks_plain_is_told(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log
) -> None:
    service = await start_service(echo)
    start_client(f"https://{service.address}")
    session = await gateway.wait_for_session()
    result = await session.endpoint.probe(Target(80, "a.local"), 10)
    assert result.code is ErrorCode.UPSTREAM_TLS
    assert log.find("for plain HTTP write http://")


async def test_the_end_of_an_https_answer_reaches_a_reader_who_is_slow(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, authority: PrivateCA
) -> None:
    size = 3_000_001

    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"x" * size)
        await writer.drain()

    service = await start_service(answer_and_close, context=authority.server_context("127.0.0.1"))
    start_client(f"https://{service.address}", upstream_ca_file=str(authority.path))
    session = await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(80, "a.local")), limit=1024)
    writer.write(b"?")
    await until(lambda: service.connections == 1, "the connection")
    received = 0
    while data := await asyncio.wait_for(reader.read(700), 10):
        received += len(data)
    assert received == size
    writer.close()
    await until(lambda: not session.endpoint.streams, "the stream to be gone")


async def test_bytes_for_an_https_upstream_that_has_closed_reset_the_stream(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, authority: PrivateCA
) -> None:
    async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)

    service = await start_service(close_at_once, context=authority.server_context("127.0.0.1"))
    start_client(f"https://{service.address}", upstream_ca_file=str(authority.path))
    session = await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(80, "a.local")))
    writer.write(b"?")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.write(b"more")
    await until(lambda: not session.endpoint.streams, "the stream to be gone")
    writer.close()
