"""Who gets in, and what everybody else is told."""

from __future__ import annotations

import asyncio

import pytest
from picows import WSHandshakeError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tunnels.protocol import SUBPROTOCOL, ErrorCode, Hello, Limits, Role, Session
from tunnels.transport.native import GatewayUnwanted, connect_native

from .conftest import BOUND, ConnectClient, GatewayProcess, StartGateway, StartUpstream, TestClient, echo, until


async def test_it_works(gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream) -> None:
    client = await connect_client(gateway, {25060: await start_upstream(echo)})
    assert client.opened.result().exposure.tcp_ports == (2222, 8443, 25060)
    reader, writer = await asyncio.open_connection("127.0.0.1", await gateway.port_of(25060))
    writer.write(b"through the line")
    writer.write_eof()
    assert await reader.read() == b"through the line"
    writer.close()
    opened = await gateway.wait_for("opened")
    assert opened["transport"] == ("native" if gateway.kind == "native" else "asgi")
    assert opened["tunnel"] == "acmeco/prod"


def said(gateway: GatewayProcess, reason: str) -> str:
    """Return what arrives of *reason*: Daphne without the hand-over sends a close code and no text."""
    return "" if gateway.kind == "daphne" else reason


async def refusal(gateway: GatewayProcess, path: str, token: str | None, subprotocol: str | None) -> tuple[int, str]:
    """Return the status and the reason of a refusal, said in HTTP or by the close code."""
    headers = {"Authorization": token} if token is not None else {}
    try:
        async with connect(
            f"ws://127.0.0.1:{gateway.port}/{path}",
            additional_headers=headers,
            subprotocols=[subprotocol] if subprotocol else None,
            open_timeout=BOUND,
            close_timeout=BOUND,
            proxy=None,
        ) as websocket:
            await asyncio.wait_for(websocket.recv(), BOUND)
    except InvalidStatus as error:
        return error.response.status_code, (error.response.body or b"").decode().strip()
    except ConnectionClosed as error:
        if error.rcvd is not None:
            return error.rcvd.code - 4000, error.rcvd.reason
    raise AssertionError("the gateway let a stranger in")


REFUSALS = [
    ("no token", "acmeco/prod", None, 401, "This token is not known."),
    ("an empty token", "acmeco/prod", "Bearer ", 401, "This token is not known."),
    ("another scheme", "acmeco/prod", "Basic good", 401, "This token is not known."),
    ("a wrong token", "acmeco/prod", "Bearer wrong", 401, "This token is not known."),
    ("a very long token", "acmeco/prod", "Bearer " + "x" * 5000, 401, "This token is not known."),
    ("a wrong token, unknown tunnel", "acmeco/nothing", "Bearer wrong", 401, "This token is not known."),
    ("a known token, unknown tunnel", "acmeco/nothing", "Bearer good", 404, "There is no such tunnel."),
    ("another tunnel's token", "acmeco/staging", "Bearer good", 403, "This token belongs to another tunnel."),
]


async def test_a_refusal_tells_its_cause(gateway: GatewayProcess) -> None:
    for case, path, token, status, reason in REFUSALS:
        assert await refusal(gateway, path, token, SUBPROTOCOL) == (status, said(gateway, reason)), case
    log = gateway.read_log()
    assert log.count("WARNING tunnels.gateway.gateway refused 127.0.0.1") == len(REFUSALS)
    assert "Traceback" not in log
    assert (await gateway.stats())["tunnels"] == {}


@pytest.mark.parametrize("subprotocol", [None, "moorline.v0", "chat"])
async def test_another_subprotocol_is_told_to_upgrade(gateway: GatewayProcess, subprotocol: str | None) -> None:
    status, reason = await refusal(gateway, "acmeco/prod", "Bearer good", subprotocol)
    assert status == 426
    assert said(gateway, SUBPROTOCOL) in reason


async def test_a_plain_request_is_told_to_upgrade(gateway: GatewayProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /acmeco/prod HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    response = (await asyncio.wait_for(reader.read(), BOUND)).decode()
    writer.close()
    assert response.startswith("HTTP/1.1 426 ")
    assert "upgrade: websocket" in response.lower()
    assert "moorline client" in response


async def test_a_revoked_token_is_refused(gateway: GatewayProcess) -> None:
    await gateway.command("revoke", token="second")
    answer = await refusal(gateway, "acmeco/prod", "Bearer second", SUBPROTOCOL)
    assert answer == (403, said(gateway, "This token was revoked."))


async def test_repeated_wrong_tokens_are_throttled_by_address(start_gateway: StartGateway) -> None:
    gateway = await start_gateway("native", trusted_proxies="127.0.0.0/8")
    for _ in range(10):
        assert (await refusal(gateway, "acmeco/prod", "Bearer wrong", SUBPROTOCOL))[0] == 401
    status, reason = await refusal(gateway, "acmeco/prod", "Bearer wrong", SUBPROTOCOL)
    assert status == 429
    assert reason.startswith("Too many wrong tokens from this address; wait ")
    # Behind the same proxy, another address still gets in.
    async with connect(
        gateway.url(),
        additional_headers={"Authorization": "Bearer good", "X-Forwarded-For": "203.0.113.9"},
        subprotocols=[SUBPROTOCOL],
        proxy=None,
    ) as websocket:
        await websocket.send(bytes(Session(Role.CLIENT, Hello()).data_to_send() or b""))
        assert (await gateway.wait_for("opened"))["address"] == "203.0.113.9"


async def test_more_sessions_than_allowed_are_refused(gateway: GatewayProcess, connect_client: ConnectClient) -> None:
    await connect_client(gateway, token="narrow", tunnel="globex/narrow")
    status, reason = await refusal(gateway, "globex/narrow", "Bearer narrow", SUBPROTOCOL)
    assert status == 409
    assert reason.startswith(said(gateway, "The tunnel has its 1 sessions already."))


async def test_a_portal_that_fails_is_not_the_clients_fault(gateway: GatewayProcess) -> None:
    await gateway.command("break_directory", broken=True)
    status, reason = await refusal(gateway, "acmeco/prod", "Bearer good", SUBPROTOCOL)
    assert (status, reason) == (503, said(gateway, "The provider's portal does not answer; this is retried."))
    log = gateway.read_log()
    assert "the portal could not be asked about a token: RuntimeError: the database is down" in log
    assert "Traceback" not in log


async def test_a_client_that_leaves_during_the_upgrade_leaves_nothing(gateway: GatewayProcess) -> None:
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            b"GET /acmeco/prod HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Authorization: Bearer good\r\nSec-WebSocket-Protocol: moorline.v1\r\n\r\n"
        )
        writer.close()

    async def nothing_left() -> bool:
        return (await gateway.stats())["tunnels"] == {}

    await until(nothing_left, "all sessions to be forgotten")
    assert "Traceback" not in gateway.read_log()


async def test_the_gateway_speaks_only_with_its_own_version(gateway: GatewayProcess) -> None:
    async with connect(
        gateway.url(),
        additional_headers={"Authorization": "Bearer good"},
        subprotocols=["other", SUBPROTOCOL],
        proxy=None,
    ) as websocket:
        assert websocket.subprotocol == SUBPROTOCOL
        hello = b'{"versions":["v9"]}'
        await websocket.send(len(hello).to_bytes(4, "big") + bytes(4) + hello)
        await asyncio.wait_for(websocket.wait_closed(), BOUND)
        assert websocket.close_code == ErrorCode.VERSION.close_code


async def test_the_native_client_sees_the_status(gateway: GatewayProcess, connect_client: ConnectClient) -> None:
    if gateway.kind == "daphne":
        client = await connect_client(gateway, token="wrong")
        assert client.closed.result()[1] == "the WebSocket closed with 4401"
    else:
        with pytest.raises(WSHandshakeError) as refused:
            await connect_client(gateway, token="wrong")
        assert refused.value.response is not None
        assert refused.value.response.status == 401


async def test_a_client_is_told_which_gateway_it_reached_before_it_says_hello(gateway: GatewayProcess) -> None:
    headers = {"Authorization": "Bearer good"}
    async with connect(gateway.url(), additional_headers=headers, subprotocols=[SUBPROTOCOL], proxy=None) as websocket:
        assert websocket.response is not None
        told = websocket.response.headers.get("Moorline-Gateway")
    assert told == (None if gateway.kind == "daphne" else "gateway-0"), "Daphne alone adds no header to an upgrade"


@pytest.mark.parametrize("kind", ["native", "uvicorn"])
async def test_a_client_that_wants_another_gateway_leaves_nothing(start_gateway: StartGateway, kind: str) -> None:
    gateway = await start_gateway(kind)
    headers = {"Authorization": "Bearer good", "Sec-WebSocket-Protocol": SUBPROTOCOL}
    endpoint = TestClient({}, Limits(), None).endpoint
    with pytest.raises(GatewayUnwanted, match="gateway-0"):
        await connect_native(
            gateway.url(), endpoint, headers=headers, ssl_context=None, proxy=None, timeout=BOUND, wants=lambda _: False
        )

    async def nothing_left() -> bool:
        return (await gateway.stats())["tunnels"] == {}

    await until(nothing_left, "the session to be forgotten")
    assert gateway.find("opened") is None
    assert "Traceback" not in gateway.read_log()
