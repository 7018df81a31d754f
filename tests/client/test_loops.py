"""The client works on every event loop: asyncio's, uvloop, and one without ``add_reader`` as on Windows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import uvloop

from tests.client.certificates import PrivateCA
from tests.client.gateway import TOKEN, InProcessGateway, Service, ask, echo
from tests.client.waiting import until
from tunnels.client.client import Client, choose_loop_factory, stop_on_signals
from tunnels.client.dialling import loop_watches_sockets
from tunnels.client.options import load_options
from tunnels.protocol import Target


class DeafLoop(asyncio.SelectorEventLoop):
    """A loop that can't watch sockets, as the Proactor loop of Windows."""

    def add_reader(self, *_: Any) -> NoReturn:
        raise NotImplementedError

    add_writer = add_reader


LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop, "deaf": DeafLoop}


@pytest.fixture(params=LOOPS)
def make_loop(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "deaf":
        # The WebSocket library looks for this name to know such a loop.
        monkeypatch.setattr(asyncio, "ProactorEventLoop", DeafLoop, raising=False)
    factory: Callable[[], asyncio.AbstractEventLoop] = LOOPS[request.param]
    return factory


def test_loops_are_told_apart() -> None:
    for name, factory in LOOPS.items():
        loop = factory()
        assert loop_watches_sockets(loop) is (name != "deaf")
        loop.close()


def test_the_client_serves_plain_and_tls_upstreams_and_half_closes(
    make_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, unused_port: int
) -> None:
    async def scenario() -> int:
        authority = PrivateCA(tmp_path, "authority")
        gateway, plain, secure = InProcessGateway(), Service(echo), Service(echo)
        await gateway.start()
        await plain.start()
        await secure.start(context=authority.server_context("127.0.0.1"))
        flags = {
            "url": gateway.url,
            "token": TOKEN,
            "upstream": [f"1={plain.address}", f"https://{secure.address}", f"2=127.0.0.1:{unused_port}"],
            "upstream-ca-file": str(authority.path),
        }
        client = Client(load_options(flags, {}))
        running = asyncio.ensure_future(client.run())
        session = await gateway.wait_for_session()

        door = gateway.listen(Target(1))
        payload = bytes(range(256)) * 8192
        assert await ask(door, payload, timeout=30) == payload
        assert await asyncio.gather(*[ask(door, b"%d" % n) for n in range(50)]) == [b"%d" % n for n in range(50)]

        reader, writer = await asyncio.open_connection(*gateway.listen(Target(80, "a.local")))
        writer.write(payload)
        assert await asyncio.wait_for(reader.readexactly(len(payload)), 30) == payload
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()  # with a reset: TLS upstreams know no half-close

        # Not every loop can reset a connection; every one ends it.
        with contextlib.suppress(ConnectionError):
            assert await ask(gateway.listen(Target(2)), b"?") == b""

        await until(lambda: not session.endpoint.streams, "the streams to be gone")
        client.stop()
        code = await running
        for service in (plain, secure):
            await service.stop()
        await gateway.stop()
        return code

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(asyncio.wait_for(scenario(), 50)) == 0


class DeafToSignals(asyncio.SelectorEventLoop):
    """A loop without ``add_signal_handler``, as on Windows."""

    def add_signal_handler(self, *_: Any) -> NoReturn:
        raise NotImplementedError


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop, DeafToSignals])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_client_on_every_loop(
    number: signal.Signals, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        stopped = asyncio.Event()
        stop_on_signals(stopped.set)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stopped.wait(), 10)

    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(scenario())
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def test_the_client_falls_back_to_asyncio_where_uvloop_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_loop_factory() is uvloop.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert choose_loop_factory() is None
