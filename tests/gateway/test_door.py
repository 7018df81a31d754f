"""What strangers send to the gateway's own port: each an answer, none a traceback, nothing stored."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from .conftest import BOUND, GatewayProcess, StartGateway, until

UPGRADE = (
    b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: moorline.v1\r\n"
)
GET = b"GET /acmeco/prod HTTP/1.1\r\n"
POST = b"POST /acmeco/prod HTTP/1.1\r\nHost: x\r\n"

# What is answered at once; without the hand-over a refusal comes after the upgrade (SPEC.md section 2).
STRANGE: dict[str, tuple[tuple[int, ...], bytes]] = {
    "a subprotocol that is not ASCII": ((400,), GET + UPGRADE.replace(b"moorline.v1", b"m\xc3\xa9") + b"\r\n"),
    "a root path": ((401, 101), GET + UPGRADE + b"Daphne-Root-Path: /acmeco\r\n\r\n"),
    "a root path that is not ASCII": ((401, 101), GET + UPGRADE + b"daphne-root-path: /\xe9\r\n\r\n"),
    "a root path without an upgrade": ((426,), GET + b"Host: x\r\nDaphne-Root-Path: //evil.example\r\n\r\n"),
    "a root path without an upgrade that is not ASCII": ((426,), GET + b"Host: x\r\nDaphne-Root-Path: \xe9\r\n\r\n"),
    "a newline in the path": ((401, 101), GET.replace(b"prod", b"pr%0Aod") + UPGRADE + b"\r\n"),
    "NUL in the path": ((401, 101), GET.replace(b"prod", b"pr%00od") + UPGRADE + b"\r\n"),
    "bytes in the path that are no UTF-8": ((401, 101), GET.replace(b"prod", b"pr%FFod") + UPGRADE + b"\r\n"),
    "a path that is not ASCII": ((400,), GET.replace(b"prod", b"pr\xc3\xb6d") + UPGRADE + b"\r\n"),
    "a path that is no URL": ((400,), GET.replace(b"/acmeco/prod", b"//[x") + UPGRADE + b"\r\n"),
    "a header name that is not ASCII": ((400,), GET + UPGRADE + b"X-\xc3\xa9: 1\r\n\r\n"),
    "a header with a bare CR": ((400,), GET + UPGRADE + b"X: a\rY: b\r\n\r\n"),
    "an upgrade by POST": ((405,), GET.replace(b"GET", b"POST") + UPGRADE + b"\r\n"),
    "an upgrade without a key": ((400,), GET + UPGRADE.replace(b"Sec-WebSocket-Key", b"X-Key") + b"\r\n"),
    "an upgrade of version 12": ((400,), GET + UPGRADE.replace(b": 13", b": 12") + b"\r\n"),
    "an upgrade to another protocol": ((426,), GET + UPGRADE.replace(b": websocket", b": h2c") + b"\r\n"),
    "an upgrade with a body": ((413,), GET + UPGRADE + b"Content-Length: 3\r\n\r\nabc"),
    "two upgrades at once": ((401, 101), (GET + UPGRADE + b"\r\n") * 2),
    "a body": ((413,), POST + b"Content-Length: 3\r\n\r\nabc"),
    "a body that never comes": ((413,), POST + b"Content-Length: 100000000000\r\n\r\n"),
    "a body in chunks": ((413,), POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    "a form": ((413,), POST + b"Content-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\nabc"),
    "a body that waits for 100 Continue": ((413,), POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
    "a body of no bytes": ((426,), POST + b"Content-Length: 0\r\n\r\n"),
    "a chunked body of no bytes": ((426,), POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
}


async def ask(gateway: GatewayProcess, request: bytes) -> bytes:
    """Return the head of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request)
    try:
        async with asyncio.timeout(BOUND):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("kind", ["native", "daphne"])
async def test_whatever_a_stranger_sends_has_its_answer_and_no_traceback(
    start_gateway: StartGateway, kind: str
) -> None:
    gateway = await start_gateway(kind)
    answers = {name: int((await ask(gateway, request)).split()[1]) for name, (_, request) in STRANGE.items()}
    expected = {name: statuses[0 if kind == "native" else -1] for name, (statuses, _) in STRANGE.items()}
    assert answers == expected
    log = gateway.read_log()
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert len(log.splitlines()) < 2 * len(STRANGE)
    await until(lambda: has_no_connections(gateway), "the strangers' connections to end")


async def has_no_connections(gateway: GatewayProcess) -> bool:
    tasks: int = (await gateway.stats())["tasks"]
    return tasks <= 8


@pytest.mark.parametrize("head", [b"Content-Length: 100000000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_an_endless_body_is_cut_off_and_stored_nowhere(start_gateway: StartGateway, head: bytes) -> None:
    gateway = await start_gateway()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(POST + head)
    answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    part = b"%x\r\n%b\r\n" % (65536, bytes(65536))
    async with asyncio.timeout(BOUND):
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)  # let the answer in: drain() alone may never wait
                assert not stored_files(gateway.process.pid)
        assert (await answer).startswith(b"HTTP/1.1 413 ")
    writer.transport.abort()


def stored_files(pid: int) -> list[str]:
    """Return the temporary files that a process has open."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return [link for link in links if link.endswith("(deleted)")]


def masked(payload: bytes) -> bytes:
    return b"\x82\xff" + len(payload).to_bytes(8, "big") + b"\0\0\0\0" + payload


async def test_a_message_over_the_bound_ends_a_session_without_the_handover(start_gateway: StartGateway) -> None:
    gateway = await start_gateway("daphne", timing={"hello": 10 * BOUND})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(GET + UPGRADE + b"Authorization: Bearer good\r\n\r\n")
    async with asyncio.timeout(BOUND):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(masked(bytes(262_145))[:14])  # the head of the frame, and nothing of the message
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(4096):
                pass
    assert "Traceback" not in gateway.read_log()
    writer.transport.abort()
