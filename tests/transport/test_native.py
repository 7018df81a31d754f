"""The native transport, its client and its server side in one process, and against another WebSocket library."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import websockets
from picows import WSUpgradeResponse, WSUpgradeResponseWithListener, ws_create_server
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode

from tunnels.protocol import SUBPROTOCOL
from tunnels.transport import MAX_MESSAGE
from tunnels.transport.native import NativeListener, connect_native

from .receiver import SOON, Receiver, until

NOISE = random.Random(5).randbytes(MAX_MESSAGE)


@dataclass
class Server:
    url: str
    receivers: list[Receiver]

    @property
    def only(self) -> Receiver:
        (receiver,) = self.receivers
        return receiver


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    receivers: list[Receiver] = []

    def accept(_request: object) -> WSUpgradeResponseWithListener:
        receivers.append(Receiver())
        response = WSUpgradeResponse.create_101_response(extra_headers={"Sec-WebSocket-Protocol": SUBPROTOCOL})
        return WSUpgradeResponseWithListener(response, NativeListener(receivers[-1]))

    server = await ws_create_server(accept, "127.0.0.1", 0, max_frame_size=MAX_MESSAGE)
    try:
        yield Server(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/acmeco/prod", receivers)
    finally:
        server.close()


async def dial(url: str) -> Receiver:
    receiver = Receiver()
    headers = {"Sec-WebSocket-Protocol": SUBPROTOCOL}
    await connect_native(url, receiver, headers=headers, ssl_context=None, proxy=None, timeout=SOON)
    await asyncio.wait_for(receiver.ready.wait(), SOON)
    return receiver


@asynccontextmanager
async def stranger(url: str) -> AsyncIterator[ClientConnection]:
    """A client of another library, which does what ours never would."""
    async with connect(url, subprotocols=[SUBPROTOCOL], compression=None, proxy=None) as websocket:  # type: ignore[list-item]
        yield websocket


async def test_messages_of_any_size_go_both_ways():
    async with serving() as server:
        client = await dial(server.url)
        sizes = [0, 1, 125, 126, 65_535, 65_536, MAX_MESSAGE]
        server.only.on_message = server.only.send
        for size in sizes:
            client.send(NOISE[:size])
        await until(lambda: len(client.messages) == len(sizes))
        assert server.only.messages == client.messages == [NOISE[:size] for size in sizes]
        client.transport.abort()
        await until(lambda: server.only.lost)


async def test_a_message_in_fragments_arrives_whole():
    async with serving() as server, stranger(server.url) as websocket:
        await websocket.send([NOISE[:10], b"", NOISE[10:70_000], NOISE[70_000:]])
        await websocket.send([b"", b"next"])
        await websocket.send(b"last")
        await until(lambda: len(server.only.messages) == 3)
        assert server.only.messages == [NOISE, b"next", b"last"]


async def test_a_text_message_is_refused():
    async with serving() as server, stranger(server.url) as websocket:
        await websocket.send(b"before")
        await websocket.send("text")
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(websocket.recv(), SOON)
        assert websocket.close_code == 1003
        await until(lambda: server.only.lost)
        assert server.only.lost == [(1003, "a text message, binary expected")]
        assert server.only.messages == [b"before"]


async def test_a_fault_of_our_own_ends_the_connection_and_is_logged(caplog: pytest.LogCaptureFixture):
    async with serving() as server, stranger(server.url) as websocket:
        await until(lambda: server.receivers)

        def fail(message: bytes) -> None:
            raise RuntimeError("a bug")

        server.only.on_message = fail
        await websocket.send(b"x")
        await asyncio.wait_for(websocket.wait_closed(), SOON)
        assert websocket.close_code == 1011
        assert "a fault of Moorline's own ended a session; please report it" in caplog.text


@pytest.mark.parametrize("fragments", [False, True])
async def test_a_message_that_is_too_long_is_refused_and_what_follows_is_not_looked_at(fragments):
    async with serving() as server, stranger(server.url) as websocket:
        too_long = NOISE + b"x"
        try:
            await websocket.send([NOISE, b"x", b"tail"] if fragments else too_long)
            await websocket.send(b"after")
            await asyncio.wait_for(websocket.recv(), SOON)
        except websockets.ConnectionClosed:
            pass
        else:
            pytest.fail("the connection stays open")
        assert websocket.close_code == 1009
        await until(lambda: server.only.lost)
        assert server.only.lost[0][0] == 1009
        assert server.only.messages == []


@pytest.mark.parametrize("closer", ["client", "server"])
async def test_a_close_tells_both_sides_its_code_and_reason(closer):
    async with serving() as server:
        client = await dial(server.url)
        closing = client if closer == "client" else server.only
        closing.transport.close(4033, "the token no longer holds")
        closing.transport.close(4001, "too late")
        closing.send(b"after the close")
        await until(lambda: client.lost and server.only.lost)
        assert client.lost == server.only.lost == [(4033, "the token no longer holds")]
        assert client.messages == server.only.messages == []


async def test_a_reason_that_is_too_long_is_cut_at_a_character():
    async with serving() as server:
        client = await dial(server.url)
        client.transport.close(4000, "\N{EURO SIGN}" * 100)
        await until(lambda: server.only.lost)
        assert server.only.lost == [(4000, "\N{EURO SIGN}" * 40)]


async def test_a_close_without_a_code_is_answered_with_a_valid_one():
    async with serving() as server, stranger(server.url) as websocket:
        await websocket.ping()
        websocket.protocol.send_close()
        websocket.transport.write(b"".join(websocket.protocol.data_to_send()))
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(websocket.recv(), SOON)
        received = websocket.protocol.close_rcvd
        assert received is not None
        assert received.code in (1000, 1005)


async def test_an_abort_reads_as_1006_at_both_sides():
    async with serving() as server:
        client = await dial(server.url)
        client.transport.abort()
        await until(lambda: client.lost and server.only.lost)
        assert [code for code, _ in client.lost + server.only.lost] == [1006, 1006]


async def test_a_peer_that_does_not_answer_a_close_is_cut(monkeypatch):
    monkeypatch.setattr("tunnels.transport.native.CLOSE_TIMEOUT", 0.05)
    async with serving() as server:
        sock = socket.create_connection(("127.0.0.1", int(server.url.split(":")[2].split("/")[0])))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        request = (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        )
        await loop.sock_sendall(sock, f"{request}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        await until(lambda: server.receivers and server.only.ready.is_set())
        server.only.transport.close(4032, "stopping")
        await until(lambda: server.only.lost)
        assert server.only.lost == [(4032, "stopping")]
        sock.close()


async def test_a_reader_that_stalls_pauses_the_sender_and_lets_it_go_on_later():
    async with serving() as server, stranger(server.url) as websocket:
        await until(lambda: server.receivers)
        await asyncio.wait_for(server.only.ready.wait(), SOON)
        websocket.transport.pause_reading()
        sent = 0
        while "paused" not in server.only.flow:
            server.only.send(NOISE)
            sent += 1
            assert sent < 1000
            await asyncio.sleep(0)
        assert server.only.transport.unsent_bytes() > 0
        websocket.transport.resume_reading()
        for _ in range(sent):
            assert await asyncio.wait_for(websocket.recv(), SOON) == NOISE
        await until(lambda: server.only.flow[-1] == "resumed")
        assert server.only.transport.unsent_bytes() == 0


async def test_a_server_that_speaks_something_else_is_refused():
    async with serving() as server:
        receiver = Receiver()
        headers = {"Sec-WebSocket-Protocol": "other.v9"}
        with pytest.raises(Exception, match=r"moorline\.v1"):
            await connect_native(server.url, receiver, headers=headers, ssl_context=None, proxy=None, timeout=SOON)
        assert not receiver.ready.is_set()


async def refused_by(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)  # type: ignore[arg-type]
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        await connect_native(url, Receiver(), headers={}, ssl_context=None, proxy=None, timeout=0.2)
    finally:
        server.close()


async def test_a_server_that_hangs_up_is_a_connection_error():
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    with pytest.raises(ConnectionError):
        await refused_by(hang_up)


async def test_a_server_that_says_nothing_times_out():
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with pytest.raises((TimeoutError, OSError)):
        await refused_by(say_nothing)


@pytest.mark.parametrize(
    "frames",
    [
        [(Opcode.CONT, b"x", True)],
        [(Opcode.BINARY, b"", False), (Opcode.BINARY, b"x", True)],
        [(Opcode.BINARY, b"a", False), (Opcode.BINARY, b"b", False)],
        [(Opcode.BINARY, b"a", False), (Opcode.CONT, b"b", True), (Opcode.CONT, b"c", True)],
    ],
)
async def test_a_fragment_out_of_turn_is_refused(frames):
    async with serving() as server, stranger(server.url) as websocket:
        for opcode, data, fin in frames:
            frame = Frame(opcode, data, fin).serialize(mask=True)
            websocket.transport.write(frame)
        await asyncio.wait_for(websocket.wait_closed(), SOON)
        assert websocket.close_code == 1002
        await until(lambda: server.only.lost)
        assert server.only.lost == [(1002, "a fragment out of turn")]
