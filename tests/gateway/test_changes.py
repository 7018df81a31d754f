"""What the portal decides reaches the sessions that are live."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import pytest

from tunnels.endpoint import Timing
from tunnels.protocol import SUBPROTOCOL, ErrorCode, Hello, Role, Session

from .conftest import BOUND, ConnectClient, GatewayProcess, StartGateway, StartUpstream, echo, until


async def test_it_works(gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream) -> None:
    """A port that is taken away closes, its connections are reset, and the client is told; a new one opens."""
    address = await start_upstream(echo)
    client = await connect_client(gateway, {25060: address, 9000: address})
    old = await gateway.port_of(25060)
    reader, writer = await asyncio.open_connection("127.0.0.1", old)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    await gateway.command("change", tunnel="acmeco/prod", tcp_ports=[9000])
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), BOUND)
    assert (await until(lambda: client.exposures, "the update"))[0].tcp_ports == (9000,)
    reader, writer = await asyncio.open_connection("127.0.0.1", await gateway.port_of(9000))
    writer.write(b"y")
    assert await reader.readexactly(1) == b"y"
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", old)


async def test_revoking_a_token_ends_its_sessions_within_two_seconds(
    gateway: GatewayProcess, connect_client: ConnectClient
) -> None:
    client = await connect_client(gateway, token="good")
    kept = await connect_client(gateway, token="second")
    await gateway.command("revoke", token="good")
    code, reason = await asyncio.wait_for(client.closed, 2.0)
    assert (code, reason) == (ErrorCode.REVOKED, "This token was revoked.")
    assert client.draining == (ErrorCode.REVOKED, 0.0, "This token was revoked.")
    assert not kept.closed.done()
    assert (await gateway.wait_for("closed"))["code"] == "REVOKED"


async def test_sessions_outlive_a_portal_that_fails(gateway: GatewayProcess, connect_client: ConnectClient) -> None:
    client = await connect_client(gateway)
    await gateway.command("break_directory", broken=True)
    await gateway.command("change", tunnel="acmeco/prod", tcp_ports=[1])
    await until(lambda: "the portal could not be asked" in gateway.read_log(), "the failure to be logged")
    assert not client.closed.done()


@pytest.mark.parametrize("kind", ["native", "daphne"])
async def test_a_gateway_that_stops_lets_streams_finish(
    start_gateway: StartGateway, connect_client: ConnectClient, start_upstream: StartUpstream, kind: str
) -> None:
    gateway = await start_gateway(kind, drain_timeout=BOUND)
    client = await connect_client(gateway, {25060: await start_upstream(echo)})
    port = await gateway.port_of(25060)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    gateway.process.send_signal(signal.SIGTERM)
    code, deadline, _ = await until(lambda: client.draining, "GOAWAY")
    assert (code, deadline) == (ErrorCode.SHUTDOWN, BOUND)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionRefusedError):
        await connect_client(gateway)
    writer.write(b"and after")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), BOUND) == b"and after"
    writer.close()
    assert (await asyncio.wait_for(client.closed, BOUND))[0] is ErrorCode.SHUTDOWN
    assert await asyncio.wait_for(gateway.process.wait(), BOUND) == 0
    await gateway.wait_for("stopped", failure=None)
    assert gateway.find("closed") is not None, "the portal was told before the end"
    assert "Traceback" not in gateway.read_log()


async def test_a_drain_has_an_end(
    start_gateway: StartGateway, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    gateway = await start_gateway("native", drain_timeout=0.2)
    await connect_client(gateway, {25060: await start_upstream(echo)})
    reader, writer = await asyncio.open_connection("127.0.0.1", await gateway.port_of(25060))
    gateway.process.send_signal(signal.SIGTERM)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), BOUND)
    writer.close()
    assert await asyncio.wait_for(gateway.process.wait(), BOUND) == 0


async def test_a_silent_peer_is_given_up(start_gateway: StartGateway) -> None:
    from websockets.asyncio.client import connect

    gateway = await start_gateway("native", timing={"idle": 0.2, "answer": 0.2, "hello": 0.3})
    headers = {"Authorization": "Bearer good"}
    async with connect(gateway.url(), additional_headers=headers, subprotocols=[SUBPROTOCOL], proxy=None) as websocket:
        await websocket.send(bytes(Session(Role.CLIENT, Hello()).data_to_send() or b""))
        await gateway.wait_for("opened")
        closed = await gateway.wait_for("closed")
        assert closed["code"] == "TIMEOUT"
        with contextlib.suppress(Exception):
            await websocket.wait_closed()
    # And one that never says HELLO:
    async with connect(gateway.url(), additional_headers=headers, subprotocols=[SUBPROTOCOL], proxy=None) as websocket:
        await asyncio.wait_for(websocket.wait_closed(), BOUND)
        assert websocket.close_code == ErrorCode.TIMEOUT.close_code


async def test_an_idle_session_is_kept_by_answers(start_gateway: StartGateway, connect_client: ConnectClient) -> None:
    gateway = await start_gateway("native")
    client = await connect_client(gateway, timing=Timing(idle=0.1, answer=0.3))

    def measured_often() -> bool:
        return client.endpoint.session._last_ping_id >= 3

    await until(measured_often, "a few PINGs")
    assert not client.closed.done()
