"""What passes between an in-cluster application and the customer's services."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from contextlib import suppress

import pytest

from tunnels.protocol import ErrorCode, Limits

from .conftest import BOUND, ConnectClient, GatewayProcess, StartUpstream, echo, until

MEGABYTE = 1 << 20


async def exchange(port: int, data: bytes) -> bytes:
    """Send *data*, half-close, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for start in range(0, len(data), 1 << 18):
            writer.write(data[start : start + (1 << 18)])
            await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    received = bytearray()
    while chunk := await asyncio.wait_for(reader.read(1 << 18), BOUND):
        received += chunk
    await sending
    writer.close()
    return bytes(received)


async def test_it_works(gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream) -> None:
    await connect_client(gateway, {25060: await start_upstream(echo)})
    assert await exchange(await gateway.port_of(25060), b"hello") == b"hello"


async def test_bulk_passes_both_ways_at_once(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    await connect_client(gateway, {25060: await start_upstream(echo)})
    port = await gateway.port_of(25060)
    data = b"".join(hashlib.sha256(bytes([n])).digest() * 32768 for n in range(24))  # 24 MiB, no two alike
    for returned in await asyncio.gather(*(exchange(port, data[n:]) for n in range(2))):
        assert hashlib.sha256(returned).digest() in {hashlib.sha256(data[n:]).digest() for n in range(2)}


async def test_small_windows_carry_everything(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    limits = Limits(stream_window=2048, session_window=4096)
    await connect_client(gateway, {25060: await start_upstream(echo)}, limits=limits)
    port = await gateway.port_of(25060)
    data = bytes(range(256)) * 400
    assert await asyncio.gather(*(exchange(port, data) for _ in range(5))) == [data] * 5


async def test_the_upstream_may_finish_first(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    received: list[bytes] = []

    async def greet_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all I say")
        writer.write_eof()
        received.append(await reader.read())

    await connect_client(gateway, {25060: await start_upstream(greet_then_listen)})
    reader, writer = await asyncio.open_connection("127.0.0.1", await gateway.port_of(25060))
    assert await asyncio.wait_for(reader.read(), BOUND) == b"all I say"
    writer.write(b"and my answer")
    writer.write_eof()
    await until(lambda: received == [b"and my answer"], "the answer after the half-close")
    writer.close()


async def read_to_the_end(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read()
    finally:
        writer.close()


async def assert_reset(port: int, bound: float = BOUND) -> None:
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(read_to_the_end(port), bound)


async def test_a_refused_upstream_resets_the_connection_within_a_second(
    gateway: GatewayProcess, connect_client: ConnectClient, unused_port: int
) -> None:
    await connect_client(gateway, {25060: ("127.0.0.1", unused_port)})
    await assert_reset(await gateway.port_of(25060), bound=1.0)
    await assert_reset(await gateway.port_of(2222), bound=1.0)
    log = gateway.read_log()
    assert "acmeco/prod port 25060: connections are reset: refused (UPSTREAM_REFUSED)" in log
    assert "acmeco/prod port 2222: connections are reset: no upstream for port 2222 (UNKNOWN_UPSTREAM)" in log


async def test_an_application_that_resets_is_felt_upstream(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    felt: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ready")
        try:
            felt.append(f"end after {await reader.read()!r}")
        except ConnectionResetError:
            felt.append("reset")

    await connect_client(gateway, {25060: await start_upstream(listen)})
    reader, writer = await asyncio.open_connection("127.0.0.1", await gateway.port_of(25060))
    assert await reader.readexactly(5) == b"ready"
    writer.transport.abort()
    sock = writer.get_extra_info("socket")
    assert sock is not None
    await until(lambda: felt, "the upstream to feel the reset")
    assert felt[0] in ("reset", "end after b''")


async def test_sessions_of_a_tunnel_take_turns(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    async def say(word: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(word)
        writer.write_eof()

    for word in (b"one", b"two"):
        address = await start_upstream(lambda _reader, writer, word=word: say(word, writer))
        await connect_client(gateway, {25060: address})
    port = await gateway.port_of(25060)
    await until(lambda: len([e for e in gateway.events if e["event"] == "opened"]) == 2, "two sessions")
    answers = [await exchange(port, b"") for _ in range(6)]
    assert sorted(answers) == [b"one"] * 3 + [b"two"] * 3
    assert all(first != second for first, second in zip(answers, answers[1:], strict=False))


async def test_a_client_that_goes_resets_what_it_carried_and_frees_the_port(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    client = await connect_client(gateway, {25060: await start_upstream(echo)})
    port = await gateway.port_of(25060)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    assert client.endpoint.transport is not None
    client.endpoint.transport.abort()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), BOUND)

    def refused() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) != 0

    await until(refused, "the port to be closed")
    closed = await gateway.wait_for("closed")
    assert closed["code"] == "LOST"
    writer.close()


async def test_more_streams_than_allowed_are_reset(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    await connect_client(gateway, {1: await start_upstream(echo)}, token="narrow", tunnel="globex/narrow")
    port = await gateway.port_of(1, "globex/narrow")
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for reader, writer in held:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
    await assert_reset(port)
    for _, writer in held:
        writer.close()
    assert "its limit (LIMIT)" in gateway.read_log()


async def test_short_connections_leave_nothing_behind(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    client = await connect_client(gateway, {25060: await start_upstream(echo)})
    port = await gateway.port_of(25060)
    await asyncio.gather(*(exchange(port, b"warm") for _ in range(20)))
    before = await gateway.stats()
    for n in range(60):
        answers = await asyncio.gather(*(exchange(port, b"%d" % n) for _ in range(10)))
        assert answers == [b"%d" % n] * 10

    async def all_gone() -> bool:
        after = await gateway.stats()
        held = after["tunnels"]["acmeco/prod"]
        return (
            (held["streams"], held["held"], client.endpoint.streams) == (0, 0, 0)
            and after["descriptors"] <= before["descriptors"]
            and after["tasks"] <= before["tasks"]
        )

    await until(all_gone, "streams, descriptors and tasks to be let go")


async def test_a_thousand_streams_at_once(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    client = await connect_client(gateway, {25060: await start_upstream(echo)})
    port = await gateway.port_of(25060)
    connections = []
    for start in range(0, 1000, 50):
        connections += await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", port) for _ in range(start, start + 50))
        )
    for number, (_, writer) in enumerate(connections):
        writer.write(b"%04d" % number)
    answers = [await asyncio.wait_for(reader.readexactly(4), BOUND) for reader, _ in connections]
    assert answers == [b"%04d" % number for number in range(1000)]
    assert client.endpoint.streams == 1000
    for _, writer in connections:
        writer.close()
    await until(lambda: client.endpoint.streams == 0, "the streams to end")


async def test_a_probe_tells_whether_an_upstream_answers(
    gateway: GatewayProcess, connect_client: ConnectClient
) -> None:
    await connect_client(gateway, {25060: ("127.0.0.1", 9)})
    await gateway.command("probe", tunnel="acmeco/prod", port=25060)
    assert (await gateway.wait_for("probed", code="OK"))["reason"] == "about port 25060"
    await gateway.command("probe", tunnel="acmeco/prod", port=2222)
    await gateway.wait_for("probed", code="UNKNOWN_UPSTREAM")
    await gateway.command("probe", tunnel="acmeco/staging", port=25060)
    assert (await gateway.wait_for("probed", code="LOST"))["reason"] == "no client is connected"


async def test_a_stalled_reader_holds_no_more_than_its_window(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    sent = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with suppress(ConnectionError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536

    await connect_client(gateway, {25060: await start_upstream(flood), 2222: await start_upstream(echo)})
    port, other = await gateway.port_of(25060), await gateway.port_of(2222)
    before = (await gateway.stats())["rss"]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    last = -1

    async def stalled() -> bool:
        nonlocal last
        was, last = last, sent
        await exchange(other, bytes(100_000))  # the second stream goes on meanwhile
        return was == last

    await until(stalled, "the flood to stop")
    # The stream's window may have grown to 16 MiB; sockets hold some more on both sides.
    assert sent < 32 * MEGABYTE
    assert (await gateway.stats())["rss"] - before < 48 * MEGABYTE
    assert await exchange(other, b"still here") == b"still here"
    sock.close()


async def test_closing_ends_with_the_code_it_was_given(gateway: GatewayProcess, connect_client: ConnectClient) -> None:
    client = await connect_client(gateway)
    client.endpoint.close(ErrorCode.OK, "going home")
    closed = await gateway.wait_for("closed")
    assert (closed["code"], closed["reason"]) == ("OK", "going home")


async def test_the_portal_is_told_what_a_session_has_carried(
    gateway: GatewayProcess, connect_client: ConnectClient, start_upstream: StartUpstream
) -> None:
    async def answer_thrice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(3 * await reader.read())
        writer.write_eof()

    client = await connect_client(gateway, {25060: await start_upstream(answer_thrice)})
    assert len(await exchange(await gateway.port_of(25060), bytes(100_000))) == 300_000
    client.endpoint.close(ErrorCode.OK, "enough")
    assert (await gateway.wait_for("closed"))["carried"] == [300_000, 100_000]
