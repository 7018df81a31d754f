"""Two gateways on one database, as in a cluster: each on an address of its own, with the same ports."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.gateway.conftest import until

from .installation import Gateway, Installation, Line
from .programs import Program, Programs, accepts, choose_port
from .relay import Relay
from .services import Services, ask, echo

SECRET = "a secret that the gateways of these tests share"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


async def start_gateway(installation: Installation, programs: Programs, host: str, **variables: str) -> Gateway:
    given = {"LISTEN_HOST": host, "GATEWAY_ADDRESS": host, "HOP_SECRET": SECRET, "HOP_PORT": str(choose_port())}
    return await installation.start_gateway(programs, drain=20, **{**given, **variables})


class Applications:
    """They connect anew for every question, to wherever Services lead at the time."""

    def __init__(self, line: Line, where: str) -> None:
        self.where = where
        self.answers = 0
        self._line = line
        self._stopped = False
        self._task = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        while not self._stopped:
            assert await ask(self._line.port, b"question", host=self.where) == b"question"
            self.answers += 1
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop asking; raises what went wrong."""
        self._stopped = True
        await self._task


async def test_a_connection_is_passed_on_to_the_gateway_that_has_the_session(
    installation: Installation, programs: Programs, services: Services
) -> None:
    one, other = [await start_gateway(installation, programs, host) for host in (FIRST, SECOND)]
    line = await installation.make_line(1)
    await installation.start_client(programs, line, one, f"1={await services.start(echo)}")
    await until(lambda: accepts(line.port, SECOND), "the other gateway to listen as well", 5)
    assert await ask(line.port, bytes(1 << 20), host=SECOND) == bytes(1 << 20)
    one.program.signal(signal.SIGKILL)
    await one.program.wait_for_end()
    with pytest.raises(ConnectionResetError):
        await ask(line.port, b"anybody?", host=SECOND)
    assert other.program.running


@pytest.mark.timeout(120)
async def test_a_rolling_restart_refuses_no_new_connection(
    installation: Installation, programs: Programs, services: Services
) -> None:
    """One client with one session; it goes to the other old gateway, which is the next to be replaced."""
    line = await installation.make_line(1)
    one, other = [await start_gateway(installation, programs, host, LISTENER_LINGER="4") for host in (FIRST, SECOND)]
    relay = Relay(one.port)
    await relay.start()
    try:
        url = one.url(line.name, relay.port)
        client = await installation.start_client(programs, line, url, f"1={await services.start(echo)}")
        await until(lambda: accepts(line.port, SECOND), "the other gateway to listen as well", 5)
        applications = Applications(line, FIRST)
        await replace_gateway(applications, client, relay, one, other, SECOND)
        new = await start_gateway(installation, programs, FIRST, LISTENER_LINGER="4")
        assert accepts(line.port, FIRST), "a gateway is ready when it listens for what is there"
        await replace_gateway(applications, client, relay, other, new, FIRST)
        await applications.stop()
        assert (await installation.live_session(line))["gateway"] == new.name
    finally:
        await relay.stop()


async def replace_gateway(
    applications: Applications, client: Program, relay: Relay, old: Gateway, successor: Gateway, host: str
) -> None:
    """Stop *old* while its client goes to *successor*; Services lead to *host* a second later."""
    before, after = applications.answers, len(client.read_log())
    relay.lead_to(successor.port)
    old.program.signal(signal.SIGTERM)
    await client.wait_for("connected: tunnel", f"gateway {successor.name}", after=after)
    moved = time.monotonic()
    await until(lambda: time.monotonic() - moved > 1, "Services to follow")
    assert applications.answers > before + 10
    applications.where = host
    assert await old.program.wait_for_end() == 0
    assert "Traceback" not in old.program.read_log()
