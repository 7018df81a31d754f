"""A connection reaches its session through whichever gateway it comes to."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from tunnels.gateway.hop import dialling
from tunnels.gateway.hop.dialling import HopFailed, dial
from tunnels.gateway.hop.wire import (
    GREETING_SIZE,
    Answer,
    HopInvalid,
    Request,
    make_greeting,
    pack_answer,
    pack_request,
    read_greeting,
)
from tunnels.gateway.options import StartFailed
from tunnels.protocol import Target

from ..conftest import BOUND, StartUpstream, echo, until
from ..peers import HTTP, SECRET, PeerGrant, PeerHolder, Peers, holder, hop_port, listening, port_of, tunnel_of
from ..test_streams import assert_reset, exchange

KEY = SECRET.encode()


async def test_it_works(peers: Peers, start_upstream: StartUpstream) -> None:
    holds, passes = await peers.start("holds"), await peers.start("passes")
    client = await peers.connect(holds, {1: await start_upstream(echo)})
    data = bytes(range(256)) * 40_000
    assert await exchange(await listening(passes), data) == data
    assert not passes.registry.sessions()
    assert len(client.sources) == 1
    await until(lambda: not passes.registry.busy and not holds.registry.busy, "nothing to be left of it")


async def test_the_address_of_the_application_is_kept(peers: Peers, start_upstream: StartUpstream) -> None:
    holds, passes = await peers.start("holds"), await peers.start("passes")
    client = await peers.connect(holds, {1: await start_upstream(echo)})
    _, writer = await asyncio.open_connection("127.0.0.1", await listening(passes), local_addr=("127.0.0.77", 0))
    host, port = writer.get_extra_info("sockname")
    await until(lambda: client.sources, "the stream")
    assert client.sources == [f"{host}:{port}"]
    assert host == "127.0.0.77"
    writer.transport.abort()


async def test_http_goes_the_same_way_and_keeps_the_address(peers: Peers, start_upstream: StartUpstream) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                heads.append(head)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    holds, passes = await peers.start("holds"), await peers.start("passes")
    client = await peers.connect(holds, {8000: await start_upstream(answer)})
    port = await listening(passes, HTTP)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.77", 0))
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: identity1.local\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(2) == b"ok"
    assert all(b"X-Forwarded-For: 127.0.0.77\r\n" in head for head in heads)
    assert [source.partition(":")[0] for source in client.sources] == ["127.0.0.77"]
    writer.close()


async def test_a_session_here_is_taken_before_one_elsewhere(peers: Peers, start_upstream: StartUpstream) -> None:
    one, other = await peers.start("one"), await peers.start("other")
    mine, theirs = [await peers.connect(g, {1: await start_upstream(echo)}) for g in (one, other)]
    await until(lambda: tunnel_of(one).holders, "the other holder to be known")
    for _ in range(4):
        assert await exchange(await listening(one), b"x") == b"x"
    assert (len(mine.sources), len(theirs.sources)) == (4, 0)


# -- who may, and what is believed ------------------------------------------------------------------------------------


async def ask_raw(port: int, sock: socket.socket) -> bytes:
    """Connect *sock* to the hop of a gateway and return its nonce."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    greeting = b""
    while len(greeting) < GREETING_SIZE:
        data = await asyncio.wait_for(loop.sock_recv(sock, GREETING_SIZE - len(greeting)), BOUND)
        assert data, "the end came before the greeting"
        greeting += data
    return read_greeting(greeting)


async def assert_refused(sock: socket.socket) -> None:
    """No answer, no word: the connection is reset."""
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(BOUND):
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""


async def test_who_does_not_know_the_secret_is_refused(
    peers: Peers, start_upstream: StartUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    holds = await peers.start("holds")
    stranger = await peers.start("stranger", hop_secret="another secret, just as long as the right one")
    client = await peers.connect(holds, {1: await start_upstream(echo)})
    await assert_reset(await listening(stranger))
    assert not client.sources
    assert "it does not know the secret of this installation" in caplog.text
    assert SECRET not in caplog.text


async def test_a_request_that_was_heard_is_worth_nothing_again(peers: Peers, start_upstream: StartUpstream) -> None:
    holds = await peers.start("holds")
    client = await peers.connect(holds, {1: await start_upstream(echo)})
    with socket.socket() as first, socket.socket() as second:
        nonce = await ask_raw(hop_port(holds), first)
        request = pack_request(KEY, nonce, Request("1", Target(1), "10.0.0.1:1").pack("holds"))
        await asyncio.get_running_loop().sock_sendall(first, request)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(first, 1), BOUND) == b"\0"
        assert await ask_raw(hop_port(holds), second) != nonce
        await asyncio.get_running_loop().sock_sendall(second, request)
        await assert_refused(second)
    assert client.sources == ["10.0.0.1:1"]


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"[1]",
        b"\xff",
        b"[" * 1000,
        b'{"tunnel":"1","port":1,"host":"","source":"10.0.0.1:1","nonce":""}',
        b'{"gateway":"holds","tunnel":"1","port":0,"host":"","source":"10.0.0.1:1","nonce":""}',
        b'{"gateway":"holds","tunnel":"1","port":1,"host":"","source":"elsewhere:1","nonce":""}',
        b'{"gateway":"holds","tunnel":"1","port":1,"host":"","source":"10.0.0.1:x","nonce":""}',
        b'{"gateway":"holds","tunnel":"1","port":null,"host":"","source":"10.0.0.1:1","nonce":""}',
    ],
)
async def test_a_header_that_makes_no_sense_is_refused(peers: Peers, header: bytes) -> None:
    holds = await peers.start("holds")
    client = await peers.connect(holds)
    with socket.socket() as sock:
        nonce = await ask_raw(hop_port(holds), sock)
        await asyncio.get_running_loop().sock_sendall(sock, pack_request(KEY, nonce, header))
        await assert_refused(sock)
    assert not client.sources


@pytest.mark.parametrize("start", [b"\x04\x01", b"\xff\xff", b"\0\0"])
async def test_a_header_that_is_too_long_is_not_read(peers: Peers, start: bytes) -> None:
    holds = await peers.start("holds")
    with socket.socket() as sock:
        await ask_raw(hop_port(holds), sock)
        await asyncio.get_running_loop().sock_sendall(sock, start)
        await assert_refused(sock)


async def test_who_says_nothing_is_let_go(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.gateway.hop.accepting.HANDSHAKE_TIMEOUT", 0.05)
    holds = await peers.start("holds")
    with socket.socket() as sock:
        await ask_raw(hop_port(holds), sock)
        await assert_refused(sock)


async def test_a_request_for_a_gateway_that_is_gone_is_worth_nothing_at_another(
    peers: Peers, start_upstream: StartUpstream
) -> None:
    """Who has the address of a gateway that is gone hands greeting, request and answer on; bytes would follow."""
    holds = await peers.start("holds")
    client = await peers.connect(holds, {1: await start_upstream(echo)})
    heard = bytearray()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            heard.extend(data)
            writer.write(data)

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", hop_port(holds))
        await asyncio.wait(
            [asyncio.create_task(pump(reader, other_writer)), asyncio.create_task(pump(other_reader, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        other_writer.close()
        writer.close()

    server = await asyncio.start_server(hand_on, "127.0.0.1", 0)
    gone = PeerHolder("gone", "127.0.0.1", server.sockets[0].getsockname()[1])
    with pytest.raises(HopFailed, match="gone did not take it: this is the gateway holds") as failure:
        await dial(gone, Request("1", Target(1), "10.0.0.1:1"), KEY)
    assert failure.value.answer is Answer.MISTAKEN
    assert heard, "it stood in between"
    assert not client.sources
    server.close()


async def test_an_address_has_its_share_of_the_handshakes(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.gateway.hop.accepting.MAX_HANDSHAKES_OF_ADDRESS", 2)
    port = hop_port(await peers.start("holds"))
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(5)]
        socks[3].bind(("127.0.0.77", 0))
        for sock in socks[:2]:
            await ask_raw(port, sock)
        with pytest.raises(ConnectionResetError):
            await ask_raw(port, socks[2])
        await ask_raw(port, socks[3])
        socks[0].close()

        async def taken() -> bool:
            with contextlib.suppress(ConnectionResetError), socket.socket() as sock:
                await ask_raw(port, sock)
                return True
            return False

        await until(taken, "the place to be free again")


async def test_a_gateway_that_does_not_know_the_secret_is_told_no_byte() -> None:
    heard = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting, nonce = make_greeting()
        writer.write(greeting)
        size = int.from_bytes(await reader.readexactly(2), "big")
        header = await reader.readexactly(size)
        await reader.readexactly(32)
        writer.write(pack_answer(b"a guess", nonce, header, Answer.TAKEN))
        heard.extend(await reader.read())
        writer.close()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(HopFailed, match="does not know the secret"):
        await dial(PeerHolder("fake", "127.0.0.1", port), Request("1", Target(1), "10.0.0.1:1"), KEY)
    assert not heard
    server.close()


async def test_an_old_answer_is_worth_nothing() -> None:
    """Each request has a nonce of its own, so that who plays a whole conversation again has no answer to it."""
    nonce = make_greeting()[1]
    headers = [Request("1", Target(1), "10.0.0.1:1").pack("holds") for _ in range(2)]
    assert headers[0] != headers[1]
    answers = [pack_answer(KEY, nonce, header, Answer.TAKEN) for header in headers]
    assert answers[0] != answers[1]


async def test_a_header_has_a_bound() -> None:
    with pytest.raises(HopInvalid):
        Request("1" * 2000, Target(1), "10.0.0.1:1").pack("holds")


# -- one hop, and the right one ---------------------------------------------------------------------------------------


async def test_a_connection_goes_one_hop_and_no_further(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gateways that each take the other for the holder: no circle, an error at once."""
    one, other = await peers.start("one"), await peers.start("other")
    hops: list[str] = []
    for gateway in (one, other):
        take = gateway._hop._take  # type: ignore[union-attr]
        name = gateway._options.name
        monkeypatch.setattr(gateway._hop, "_take", lambda *a, take=take, name=name: hops.append(name) or take(*a))
    peers.portal.forged["1"] = (holder(one), holder(other))
    peers.portal.publish("1")
    await assert_reset(await listening(one), bound=2.0)
    assert hops == ["other"]


async def test_a_holder_that_has_nothing_or_is_gone_is_followed_by_the_next(
    peers: Peers, start_upstream: StartUpstream, unused_port: int
) -> None:
    holds, empty, passes = [await peers.start(name) for name in ("holds", "empty", "passes")]
    await peers.connect(holds, {1: await start_upstream(echo)})
    gone = PeerHolder("gone", "127.0.0.1", unused_port)
    peers.portal.forged["1"] = (gone, holder(empty), holder(holds))
    peers.portal.publish("1")
    await until(lambda: len(tunnel_of(passes).holders) == 3 if passes.registry.get("1") else False, "the holders")
    for _ in range(4):
        assert await exchange(await listening(passes), b"x") == b"x"


async def test_what_nobody_holds_is_reset_at_once(peers: Peers, unused_port: int) -> None:
    passes = await peers.start("passes")
    peers.portal.forged["1"] = (PeerHolder("gone", "127.0.0.1", unused_port),)
    peers.portal.publish("1")
    await assert_reset(await listening(passes), bound=2.0)
    assert not passes.registry.busy


async def test_a_session_that_moved_unnoticed_is_found(peers: Peers, start_upstream: StartUpstream) -> None:
    old, new, passes = [await peers.start(name) for name in ("old", "new", "passes")]
    upstream = {1: await start_upstream(echo)}
    client = await peers.connect(old, upstream)
    port = await listening(passes)
    peers.portal.silent = True
    await peers.connect(new, upstream)
    assert client.endpoint.transport is not None
    client.endpoint.transport.abort()
    await until(lambda: len(peers.portal.sessions) == 1, "the old session to be over")
    assert [h.gateway for h in tunnel_of(passes).holders] == ["old"]
    assert await exchange(port, b"x") == b"x"


async def test_a_port_of_the_tunnel_that_is_not_there_is_refused(peers: Peers) -> None:
    holds = await peers.start("holds")
    await peers.connect(holds)
    with pytest.raises(HopFailed, match="nothing listens for port 7"):
        await dial(holder(holds), Request("1", Target(7), "10.0.0.1:1"), KEY)


async def test_a_holder_at_its_limit_says_so(peers: Peers, start_upstream: StartUpstream) -> None:
    peers.portal.grants["good"] = PeerGrant(max_streams=1)
    holds = await peers.start("holds")
    await peers.connect(holds, {1: await start_upstream(echo)})
    with (
        await dial(holder(holds), Request("1", Target(1), "10.0.0.1:1"), KEY),
        pytest.raises(HopFailed, match="the session holds 1 streams, its limit") as failure,
    ):
        await dial(holder(holds), Request("1", Target(1), "10.0.0.1:1"), KEY)
    assert failure.value.answer is Answer.LIMIT


# -- what passes ------------------------------------------------------------------------------------------------------


async def test_a_refused_upstream_resets_the_application_behind_the_hop(peers: Peers, unused_port: int) -> None:
    holds, passes = await peers.start("holds"), await peers.start("passes")
    await peers.connect(holds, {1: ("127.0.0.1", unused_port)})
    await assert_reset(await listening(passes), bound=2.0)


async def test_an_application_that_resets_is_felt_upstream(peers: Peers, start_upstream: StartUpstream) -> None:
    felt: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ready")
        try:
            felt.append(f"an end after {await reader.read()!r}")
        except ConnectionResetError:
            felt.append("a reset")

    holds, passes = await peers.start("holds"), await peers.start("passes")
    await peers.connect(holds, {1: await start_upstream(listen)})
    with socket.create_connection(("127.0.0.1", await listening(passes))) as application:
        application.setblocking(False)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(application, 5), BOUND) == b"ready"
        application.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await until(lambda: felt, "the upstream to feel it")
    assert felt == ["a reset"]


async def test_the_upstream_may_finish_first(peers: Peers, start_upstream: StartUpstream) -> None:
    received: list[bytes] = []

    async def greet_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all I say")
        writer.write_eof()
        received.append(await reader.read())

    holds, passes = await peers.start("holds"), await peers.start("passes")
    await peers.connect(holds, {1: await start_upstream(greet_then_listen)})
    reader, writer = await asyncio.open_connection("127.0.0.1", await listening(passes))
    assert await asyncio.wait_for(reader.read(), BOUND) == b"all I say"
    writer.write(b"and my answer")
    writer.write_eof()
    await until(lambda: received == [b"and my answer"], "the answer after the half-close")
    writer.close()


async def test_connections_that_are_passed_on_count(peers: Peers, caplog: pytest.LogCaptureFixture) -> None:
    peers.portal.grants["good"] = PeerGrant(max_streams=1)
    holds, passes = await peers.start("holds"), await peers.start("passes")
    await peers.connect(holds)
    port = await listening(passes, HTTP)  # idle connections of HTTP need no stream
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    await until(lambda: tunnel_of(holds).connections == 2, "both to have arrived")
    await assert_reset(port)
    assert "connections are reset: the tunnel has 2 connections already (LIMIT)" in caplog.text
    held.pop()[1].transport.abort()
    await until(lambda: tunnel_of(passes).connections == 1, "its place")
    for _, writer in held:
        writer.transport.abort()


async def test_a_gateway_that_stops_resets_what_it_passes_on(peers: Peers, start_upstream: StartUpstream) -> None:
    holds, passes = await peers.start("holds"), await peers.start("passes")
    await peers.connect(holds, {1: await start_upstream(echo)})
    reader, writer = await asyncio.open_connection("127.0.0.1", await listening(passes))
    writer.write(b"x")
    assert await asyncio.wait_for(reader.readexactly(1), BOUND) == b"x"
    await passes.stop()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), BOUND)
    writer.close()
    await until(lambda: not holds.registry.busy, "the holder to let go")


async def test_a_port_that_is_taken_away_resets_what_was_passed_on(peers: Peers, start_upstream: StartUpstream) -> None:
    holds, passes = await peers.start("holds"), await peers.start("passes")
    await peers.connect(holds, {1: await start_upstream(echo)})
    port = await listening(passes)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    assert await asyncio.wait_for(reader.readexactly(1), BOUND) == b"x"
    peers.portal.grants["good"] = PeerGrant(tcp_ports={2: 0}, revision=2)
    peers.portal.publish("1", sessions_only=False)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), BOUND)
    writer.close()
    await listening(passes, Target(2))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


# -- setting it up ----------------------------------------------------------------------------------------------------


async def test_a_hop_port_that_is_taken_is_told(peers: Peers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartFailed, match=f"can't listen on 127.0.0.1:{port} .*set MOORLINE_HOP_PORT"):
            await peers.start("one", hop_port=port)
    peers.gateways.clear()


async def test_without_a_secret_there_is_no_hop(peers: Peers) -> None:
    alone = await peers.start("alone", hop_secret="")
    await peers.connect(alone)
    assert port_of(alone)
    assert alone._hop is None
    assert peers.portal.asked == []
    assert peers.portal.gateways["alone"].hop_port == 0


async def test_dials_to_a_gateway_that_is_gone_come_last(
    peers: Peers, start_upstream: StartUpstream, unused_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    holds, passes = await peers.start("holds"), await peers.start("passes")
    await peers.connect(holds, {1: await start_upstream(echo)})
    peers.portal.forged["1"] = (PeerHolder("gone", "127.0.0.1", unused_port), holder(holds))
    peers.portal.publish("1")
    await until(lambda: len(tunnel_of(passes).holders) == 2 if passes.registry.get("1") else False, "the holders")
    for _ in range(6):
        assert await exchange(await listening(passes), b"x") == b"x"
    assert caplog.text.count("a connection could not be passed on: gone at") == 1
    assert dialling.REST > 1
