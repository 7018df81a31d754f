"""Streams reach the right upstream, and what goes wrong there is said."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.client.conftest import Log, StartClient, StartService
from tests.client.gateway import InProcessGateway, ask, echo, greet
from tests.client.waiting import until
from tunnels.protocol import ErrorCode, Exposure, Target


async def test_one_client_serves_every_form_of_upstream_at_once(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService
) -> None:
    names = ("web-a", "web-b", "postgres", "ssh", "identity1", "other")
    web_a, web_b, postgres, ssh, identity, other = [await start_service(greet(name)) for name in names]
    start_client(
        f"8080={web_a.address}",
        f"8080={web_b.address}",
        f"localhost:{postgres.port}",
        f"2222={ssh.address}",
        f"Identity1.local=http://{identity.address}",
        f"http://{other.address}",
    )
    session = await gateway.wait_for_session()
    targets = {
        "balanced": Target(8080),
        "same port": Target(postgres.port),
        "remapped": Target(2222),
        "named host": Target(8000, "IDENTITY1.local"),
        "any host": Target(8000, "identity2.local"),
    }
    doors = {name: gateway.listen(target) for name, target in targets.items()}

    assert {await ask(doors["balanced"]) for _ in range(4)} == {b"web-a\n", b"web-b\n"}
    assert (web_a.connections, web_b.connections) == (2, 2)
    assert await ask(doors["same port"], b"select 1") == b"postgres\nselect 1"
    assert await ask(doors["remapped"], b"x" * 1_000_000) == b"ssh\n" + b"x" * 1_000_000
    assert await ask(doors["named host"]) == b"identity1\n"
    assert await ask(doors["any host"]) == b"other\n"

    assert session.client is not None
    assert session.client.exposure == Exposure(
        tcp_ports=tuple(sorted((2222, 8080, postgres.port))), hosts=("identity1.local",), any_host=True
    )


async def test_an_upstream_that_half_closes_first_still_hears_the_other_side(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService
) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def speak_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all I have to say")
        writer.write_eof()
        heard.set_result(await reader.read())

    service = await start_service(speak_then_listen)
    start_client(f"1={service.address}")
    await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(1)))
    assert await reader.read() == b"all I have to say"
    writer.write(b"and my answer")
    writer.write_eof()
    assert await asyncio.wait_for(heard, 10) == b"and my answer"
    writer.close()


async def test_what_is_said_while_the_upstream_is_dialled_reaches_it_with_the_half_close(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start_service(echo)
    loop = asyncio.get_running_loop()
    look_up, may_look_up = loop.getaddrinfo, asyncio.Event()

    async def look_up_later(host: str, port: int, **how: int) -> object:
        await may_look_up.wait()
        return await look_up("127.0.0.1", port, **how)

    start_client(f"1=slow.example:{service.port}", f"2=slow.example:{service.port}")
    await gateway.wait_for_session()
    monkeypatch.setattr(loop, "getaddrinfo", look_up_later)
    talking = asyncio.ensure_future(ask(gateway.listen(Target(1)), b"early bytes"))
    silent = asyncio.ensure_future(ask(gateway.listen(Target(2)), b""))
    client = gateway.live[0].endpoint
    await until(lambda: sum(stream.fin_sent for stream in client.session.streams.values()) == 2, "both half-closes")
    may_look_up.set()
    assert await talking == b"early bytes"
    assert await silent == b""


async def test_a_refused_upstream_resets_the_connection_and_says_why(
    gateway: InProcessGateway, start_client: StartClient, log: Log, unused_port: int
) -> None:
    start_client(f"25060=127.0.0.1:{unused_port}")
    await gateway.wait_for_session()
    with pytest.raises(ConnectionResetError):
        await ask(gateway.listen(Target(25060)), timeout=5)
    line = await log.wait_for("warning", f"upstream 127.0.0.1:{unused_port} for port 25060", "refused")
    assert "check that the service is running" in line


async def test_trouble_with_an_upstream_is_not_said_for_every_connection(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log, unused_port: int
) -> None:
    start_client(f"1=127.0.0.1:{unused_port}")
    await gateway.wait_for_session()
    door = gateway.listen(Target(1))
    for _ in range(20):
        with pytest.raises(ConnectionResetError):
            await ask(door)
    assert len(log.find("refused")) == 1
    await start_service(echo, port=unused_port)
    assert await ask(door, b"hello") == b"hello"
    assert log.find("info", "answers again")


async def test_what_the_client_does_not_list_is_rejected_with_the_option_to_add(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, log: Log
) -> None:
    service = await start_service(echo)
    start_client(f"1={service.address}", f"known.local=http://{service.address}")
    await gateway.wait_for_session()
    for target in (Target(5432), Target(8000, "unknown.local")):
        with pytest.raises(ConnectionResetError):
            await ask(gateway.listen(target))
    assert log.find("port 5432", "--upstream 5432=HOST:PORT")
    assert log.find("unknown.local", "--upstream unknown.local=http://HOST:PORT")
    assert service.connections == 0


async def test_a_balanced_upstream_that_refuses_is_skipped_and_used_again_later(
    gateway: InProcessGateway,
    start_client: StartClient,
    start_service: StartService,
    unused_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tunnels.client.balance.FIRST_REST", 0.05)
    steady = await start_service(greet("steady"))
    start_client(f"1={steady.address}", f"1=127.0.0.1:{unused_port}")
    await gateway.wait_for_session()
    door = gateway.listen(Target(1))
    assert [await ask(door) for _ in range(6)] == [b"steady\n"] * 6
    back = await start_service(greet("back"), port=unused_port)
    answers: set[bytes] = set()
    async with asyncio.timeout(10):
        while b"back\n" not in answers:
            answers.add(await ask(door))
    assert back.connections >= 1


async def test_a_name_that_does_not_resolve_is_told_apart(
    gateway: InProcessGateway, start_client: StartClient, log: Log
) -> None:
    start_client("1=postgres.invalid:5432")
    session = await gateway.wait_for_session()
    result = await session.endpoint.probe(Target(1), 10)
    assert result.code is ErrorCode.UPSTREAM_NAME
    assert "postgres.invalid" not in result.reason  # names of the customer's network stay there
    assert log.find("postgres.invalid:5432", "does not resolve", "DNS")


@pytest.fixture
def silent_address() -> Iterator[tuple[str, int]]:
    """An address that answers nothing: a listener whose queue is full lets further attempts wait."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        yield full.getsockname()


async def test_an_upstream_that_does_not_answer_is_given_up_in_time(
    gateway: InProcessGateway, start_client: StartClient, log: Log, silent_address: tuple[str, int]
) -> None:
    start_client(f"1=127.0.0.1:{silent_address[1]}", dial_timeout="0.3")
    session = await gateway.wait_for_session()
    result = await session.endpoint.probe(Target(1), 10)
    assert result.code is ErrorCode.UPSTREAM_TIMEOUT
    assert log.find("no answer within 0.3 s")


async def test_every_address_of_a_name_is_tried_without_waiting_long_for_one(
    gateway: InProcessGateway,
    start_client: StartClient,
    start_service: StartService,
    monkeypatch: pytest.MonkeyPatch,
    silent_address: tuple[str, int],
    unused_port: int,
) -> None:
    service = await start_service(echo)
    found = [("127.0.0.1", unused_port), silent_address, ("127.0.0.1", service.port)]

    async def look_up(host: str, port: int, **how: int) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in found]

    start_client("1=many.example:1", dial_timeout="60")
    await gateway.wait_for_session()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    assert await ask(gateway.listen(Target(1)), b"hello") == b"hello"
    found[:] = found[:1]
    with pytest.raises(ConnectionResetError):
        await ask(gateway.listen(Target(1)), b"hello")


async def test_a_probe_dials_and_reports_how_long_it_took(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService, unused_port: int
) -> None:
    service = await start_service(echo)
    start_client(f"1={service.address}", f"2=127.0.0.1:{unused_port}")
    endpoint = (await gateway.wait_for_session()).endpoint
    answered, refused, unknown = [await endpoint.probe(Target(port), 10) for port in (1, 2, 3)]
    assert answered.code is ErrorCode.OK
    assert 0 < answered.elapsed < 10
    assert service.connections == 1
    assert refused.code is ErrorCode.UPSTREAM_REFUSED
    assert unknown.code is ErrorCode.UNKNOWN_UPSTREAM


async def test_a_stream_that_is_reset_while_its_upstream_is_dialled_leaves_nothing_behind(
    gateway: InProcessGateway, start_client: StartClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def never(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        await asyncio.Event().wait()

    start_client("1=slow.example:5432")
    session = await gateway.wait_for_session()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    tasks = len(asyncio.all_tasks())
    endpoint = session.endpoint
    for _ in range(50):
        sink = Sink()
        stream = endpoint.open_stream(Target(1), "10.0.0.1:1", sink)
        await until(lambda: asked, "the look-up")
        endpoint.reset_stream(stream, ErrorCode.CANCELLED)
    await until(lambda: len(asyncio.all_tasks()) <= tasks + 1, "the dials to end")
    assert asked == ["slow.example"]  # one look-up serves all that wait for it


async def test_a_thousand_streams_leave_nothing_behind(
    gateway: InProcessGateway, start_client: StartClient, start_service: StartService
) -> None:
    service = await start_service(echo, backlog=1024)
    start_client(f"1={service.address}")
    session = await gateway.wait_for_session()
    door = gateway.listen(Target(1))
    for _ in range(5):
        answers = await asyncio.gather(*[ask(door, b"%d" % number, timeout=30) for number in range(200)])
        assert answers == [b"%d" % number for number in range(200)]
    await until(lambda: not session.endpoint.streams, "the streams to be gone")
    assert service.connections == 1000


class Sink:
    """A handler of streams that takes everything and says nothing."""

    def stream_accepted(self) -> None: ...
    def stream_rejected(self, code: ErrorCode, reason: str) -> None: ...
    def data_received(self, data: memoryview) -> None: ...
    def fin_received(self) -> None: ...
    def stream_reset(self, code: ErrorCode, reason: str) -> None: ...
    def resume_sending(self) -> None: ...
    def session_draining(self) -> None: ...
    def check_connection(self) -> None: ...
