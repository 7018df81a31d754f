"""A client that means harm gets a code and a line in the log; memory and other tunnels do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from quickstart.ports import LOOPBACK
from tests.gateway.conftest import until
from tunnels.protocol import SUBPROTOCOL, ErrorCode, Hello, Limits
from tunnels.protocol.frames import DATA, OPEN, PING, Target, pack_frame, pack_header, pack_hello, pack_open

from .conftest import LOGS
from .installation import Gateway, Installation, Line, wait_for_listeners
from .programs import MEGABYTE, Programs
from .services import Conversation, Services, echo

HELLO = pack_frame(0, 0, pack_hello(Hello("hostile/1", "hostile", Limits())))
FLAT = 24 * MEGABYTE  # what the gateway may grow by: less than any of the attacks sends
PATIENCE = 5.0  # seconds within which the other tunnel answers, whatever goes on; the machine may be busy


class Bystander:
    """An application on another tunnel that asks and asks, and watches the gateway's memory meanwhile."""

    def __init__(self, conversation: Conversation, gateway: Gateway) -> None:
        self._conversation = conversation
        self._gateway = gateway
        self.answers = 0
        self.slowest = 0.0
        self.memory_before = gateway.program.memory
        self.memory_peak = self.memory_before
        self._asking = asyncio.create_task(self._keep_asking())

    async def _keep_asking(self) -> None:
        while True:
            self.slowest = max(self.slowest, await self._conversation.ask(bound=PATIENCE))
            self.answers += 1
            self.memory_peak = max(self.memory_peak, self._gateway.program.memory)
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Fail unless every question was answered in time and the gateway's memory stayed flat."""
        answers = self.answers
        await until(lambda: self._asking.done() or self.answers > answers, "an answer after the attack")
        self._asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._asking
        grown = self.memory_peak - self.memory_before
        print(f"other tunnel: {self.answers} answers, slowest {self.slowest * 1000:.0f} ms; gateway grew by {grown}")
        assert grown < FLAT, f"the gateway grew by {grown} bytes"


class Stage:
    """A gateway with two tunnels: one of a hostile customer, one of somebody else with a real client."""

    def __init__(self, installation: Installation, gateway: Gateway, hostile: Line, other: Line) -> None:
        self.installation = installation
        self.gateway = gateway
        self.hostile = hostile
        self.other = other

    def connect(
        self, token: str | None = "", line: Line | None = None
    ) -> AbstractAsyncContextManager[ClientConnection]:
        """Open a WebSocket to the hostile customer's tunnel; *token* None sends none."""
        headers = {} if token is None else {"Authorization": f"Bearer {token or self.hostile.token}"}
        url = self.gateway.url((line or self.hostile).name)
        return connect_websocket(
            url, additional_headers=headers, subprotocols=[SUBPROTOCOL], proxy=None, compression=None,
            ping_interval=None, open_timeout=20, close_timeout=5, max_size=None,
        )  # fmt: skip

    def log_end(self) -> int:
        return len(self.gateway.program.read_log())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    directory = tmp_path_factory.mktemp("hostile")
    LOGS.add(directory)
    programs, services = Programs(directory), Services()
    gateway = await installation.start_gateway(programs)
    hostile = await installation.make_line(1, customer="mallory")
    other = await installation.make_line(1)
    await installation.start_client(programs, other, gateway, f"1={await services.start(echo)}")
    yield Stage(installation, gateway, hostile, other)
    await programs.stop()
    await services.stop()
    LOGS.discard(directory)


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def bystander(stage: Stage) -> AsyncIterator[Bystander]:
    """Watch the other tunnel and the gateway's memory during every test here."""
    session = await stage.installation.live_session(stage.other)
    conversation = await Conversation.open(stage.other.port)
    bystander = Bystander(conversation, stage.gateway)
    yield bystander
    await bystander.stop()
    conversation.close()
    assert (await stage.installation.live_session(stage.other))["id"] == session["id"]
    assert "Traceback" not in stage.gateway.program.read_log()


# -- at the door ----------------------------------------------------------------------------------------------------


async def refusal(stage: Stage, token: str | None, line: Line | None = None) -> tuple[int, str]:
    """Return the status and the reason with which the gateway refuses."""
    try:
        async with stage.connect(token, line):
            raise AssertionError("the gateway let a stranger in")
    except InvalidStatus as error:
        return error.response.status_code, (error.response.body or b"").decode()


async def test_no_token_and_a_wrong_one_are_refused_alike_whatever_the_tunnel(stage: Stage) -> None:
    after = stage.log_end()
    nowhere = Line("nobody/nowhere", 0, {}, 0, "", stage.hostile.token_file)
    assert await refusal(stage, None) == (
        401,
        "No token was given. Start the client with the token that your provider gave you.\n",
    )
    for line in (stage.hostile, nowhere):
        status, reason = await refusal(stage, "mlt_wrong", line)
        assert status == 401
        assert reason.startswith("This token is not known.")
        assert stage.gateway.program.find("warning", "refused 127.0.0.1", line.name, "401", after=after)


async def test_a_token_of_another_tunnel_is_refused(stage: Stage) -> None:
    after = stage.log_end()
    status, reason = await refusal(stage, stage.hostile.token, stage.other)
    assert (status, reason) == (403, "This token belongs to another tunnel. Check the URL and the token.\n")
    assert stage.gateway.program.find("refused 127.0.0.1", stage.other.name, "403", after=after)


async def test_a_revoked_token_is_refused(stage: Stage) -> None:
    staff = stage.installation.staff
    minted = await staff.do("mint_token", stage.hostile.tunnel_id)
    await staff.do("revoke_token", minted["token_id"])
    after = stage.log_end()
    status, reason = await refusal(stage, minted["token"])
    assert status == 403
    assert "was revoked. Ask your provider for another." in reason
    assert stage.gateway.program.find("refused 127.0.0.1", stage.hostile.name, "403", "revoked", after=after)


# -- inside: one session that breaks the protocol ---------------------------------------------------------------------


async def close_code(websocket: ClientConnection) -> int:
    """Read until the gateway closes, and return its code; 1006 where it just cut the connection."""
    try:
        async with asyncio.timeout(20):
            while True:
                await websocket.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else 1006


async def attack(stage: Stage, *messages: bytes | str, hello: bytes = HELLO) -> int:
    """Send *messages* after HELLO, all at once, and return the close code."""
    async with stage.connect() as websocket:
        with contextlib.suppress(ConnectionClosed):
            if hello:
                await websocket.send(hello)
            for message in messages:
                await websocket.send(message)
        return await close_code(websocket)


OPENS = [pack_frame(OPEN, 2 * number + 1, pack_open(Target(1), "10.0.0.1:1")) for number in range(10_000)]
TOO_LARGE = pack_header(DATA, 65_537, 1) + bytes(65_537)
CUT_SHORT = pack_header(DATA, 100, 1) + bytes(50)
PINGS = [pack_frame(PING, 0, bytes(8)) * 1000] * 10
PROTOCOL = ErrorCode.PROTOCOL.close_code
ATTACKS: dict[str, tuple[list[bytes | str], int, str]] = {
    "a frame of 64 KiB and a byte": ([TOO_LARGE], ErrorCode.FRAME_TOO_LARGE.close_code, "a frame of 65537 bytes"),
    "a frame that ends early": ([CUT_SHORT], PROTOCOL, "a message ends inside a frame"),
    "an unknown type": ([pack_frame(99, 0)], PROTOCOL, "a frame of type 99"),
    "HELLO twice": ([HELLO], PROTOCOL, "HELLO twice"),
    "bytes of a stream that never was": ([pack_frame(DATA, 7, b"x")], PROTOCOL, "never opened"),
    "10,000 streams of its own": ([b"".join(OPENS[n::20]) for n in range(20)], PROTOCOL, "OPEN from a client"),
    "10,000 PINGs": (list(PINGS), ErrorCode.LIMIT.close_code, "more than 20 PINGs"),
    "a text message": (["hello"], 1003, "a text message, binary expected"),
    "a WebSocket frame of 10 MB": ([bytes(10_000_000)], 1009, "262144"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_session_that_breaks_the_protocol_ends_with_a_code_and_a_line(stage: Stage, name: str) -> None:
    messages, code, words = ATTACKS[name]
    after = stage.log_end()
    assert await attack(stage, *messages) == code
    await stage.gateway.program.wait_for(stage.hostile.name, "ended", words, after=after)


async def test_garbage_ends_a_session_with_a_code_and_a_line(stage: Stage) -> None:
    rng = random.Random(20)
    for hello in (HELLO, b""):
        for size in (1, 7, 8, 100, 70_000):
            after = stage.log_end()
            code = await attack(stage, rng.randbytes(size), hello=hello)
            assert code in {error.close_code for error in ErrorCode if error < ErrorCode.UNKNOWN_UPSTREAM} - {1000}
            await stage.gateway.program.wait_for("the peer broke the protocol", after=after)


async def test_bytes_beyond_the_credit_end_the_session(stage: Stage) -> None:
    after = stage.log_end()
    async with stage.connect() as websocket:
        await websocket.send(HELLO)
        await wait_for_listeners(stage.hostile)
        reader, writer = await asyncio.open_connection(LOOPBACK, stage.hostile.port)  # and never reads
        with contextlib.suppress(ConnectionClosed):
            for _ in range(1100):  # 68 MiB; the session's window has 64
                await websocket.send(pack_frame(DATA, 1, bytes(65_536)))
        assert await close_code(websocket) == ErrorCode.WINDOW_OVERRUN.close_code
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await stage.gateway.program.wait_for("the peer broke the protocol", "WINDOW_OVERRUN", after=after)


async def test_a_message_of_fragments_without_end_is_cut(stage: Stage) -> None:
    after = stage.log_end()
    async with stage.connect() as websocket:
        await websocket.send(HELLO)

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(1000)
                await asyncio.sleep(0)  # let the answer in

        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(20):
                await websocket.send(endless())
        assert await close_code(websocket) == 1009
    await stage.gateway.program.wait_for(stage.hostile.name, "ended", "262144", after=after)


# -- below the protocol -----------------------------------------------------------------------------------------------


class RawClient:
    """A WebSocket on a plain socket, for what no library sends."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    def head(self) -> bytes:
        """Return the upgrade request, without the empty line that ends it."""
        return (
            f"GET /{self._stage.hostile.name} HTTP/1.1\r\nHost: {LOOPBACK}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\nAuthorization: Bearer {self._stage.hostile.token}\r\n"
        ).encode()

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(LOOPBACK, self._stage.gateway.port)

    async def upgrade(self) -> None:
        await self.connect()
        self.writer.write(self.head() + b"\r\n")
        async with asyncio.timeout(20):
            assert b" 101 " in await self.reader.readuntil(b"\r\n\r\n")
        self.writer.write(Frame(Opcode.BINARY, HELLO).serialize(mask=True))

    async def ended(self, bound: float) -> None:
        """Wait until the gateway has ended the connection."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(bound):
                while await self.reader.read(1 << 16):
                    pass
        self.writer.close()


async def flood(client: RawClient, piece: bytes, total: int) -> int:
    """Send *piece* again and again and read nothing; return how much went out until the gateway cut or stopped."""
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        while sent < total:
            client.writer.write(piece)
            async with asyncio.timeout(5):
                await client.writer.drain()
            await asyncio.sleep(0)  # the other tunnel's turn
            sent += len(piece)
    return sent


async def test_websocket_pings_that_nobody_reads_the_answers_of_take_no_memory(stage: Stage) -> None:
    client = RawClient(stage)
    await client.upgrade()
    ping = Frame(Opcode.PING, bytes(125)).serialize(mask=True)
    sent = await flood(client, ping * 1000, 200 * MEGABYTE)
    print(f"pings: {sent} bytes went out")
    client.writer.transport.abort()


async def test_empty_fragments_without_end_are_cut(stage: Stage) -> None:
    after = stage.log_end()
    client = RawClient(stage)
    await client.upgrade()
    client.writer.write(Frame(Opcode.BINARY, b"", fin=False).serialize(mask=True))
    fragment = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)
    await flood(client, fragment * 10_000, 20 * MEGABYTE)
    await client.ended(20)
    await stage.gateway.program.wait_for(stage.hostile.name, "ended", "1024 fragments", after=after)


@pytest.mark.wide
@pytest.mark.timeout(180)
async def test_half_a_handshake_is_given_up(stage: Stage) -> None:
    clients = [RawClient(stage) for _ in range(300)]
    descriptors = stage.gateway.program.descriptors
    for number, client in enumerate(clients):
        await client.connect()
        client.writer.write((b"", b"GET /mallory", client.head())[number % 3])
    await asyncio.gather(*[client.ended(90) for client in clients])
    await until(lambda: stage.gateway.program.descriptors <= descriptors, "the descriptors to be let go")


@pytest.mark.wide
async def test_who_never_says_hello_is_given_up(stage: Stage) -> None:
    after = stage.log_end()
    clients = [RawClient(stage) for _ in range(10)]
    for client in clients:
        await client.connect()
        client.writer.write(client.head() + b"\r\n")
    await asyncio.gather(*[client.ended(30) for client in clients])
    await stage.gateway.program.wait_for(stage.hostile.name, "ended", "no HELLO in time", after=after)
