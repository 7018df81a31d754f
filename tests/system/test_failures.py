"""What applications feel when something on the way dies, and that the line comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.gateway.conftest import until
from tests.programs import require_program

from .installation import Gateway, Installation, Line, wait_for_listeners
from .programs import Program, Programs, accepts
from .psql import connect, run_psql
from .relay import Relay
from .services import Conversation, Services, answers, echo

BOUND = 30.0  # seconds after which no connection hangs any more
BACK = 75.0  # seconds: the longest pause between two attempts, twice, and what a busy machine adds


@dataclass
class Site:
    """A tunnel with its client and an echo behind it, on a gateway of its own."""

    gateway: Gateway
    line: Line
    client: Program
    upstream: str

    async def comes_back(self, after: int) -> None:
        """Wait until the client, which nobody touches, has connected anew and the line works."""
        await self.client.wait_for("connected: tunnel", after=after, bound=BACK)
        await wait_for_listeners(self.line)
        await until(lambda: answers(self.line.port), "an answer through the new session")


@pytest_asyncio.fixture(loop_scope="session")
async def site(installation: Installation, programs: Programs, services: Services) -> Site:
    gateway = await installation.start_gateway(programs)
    line = await installation.make_line(1)
    upstream = await services.start(echo)
    client = await installation.start_client(programs, line, gateway, f"1={upstream}")
    return Site(gateway, line, client, upstream)


async def test_kill_9_of_the_client_resets_what_it_carried_and_another_takes_its_place(
    installation: Installation, programs: Programs, site: Site
) -> None:
    conversation = await Conversation.open(site.line.port)
    lost = await installation.live_session(site.line)
    site.client.signal(signal.SIGKILL)
    await conversation.wait_for_reset(5)
    await until(lambda: not accepts(site.line.port), "the port to refuse what nobody can answer")

    await installation.start_client(programs, site.line, site.gateway, f"1={site.upstream}")
    assert await answers(site.line.port)
    new = await installation.live_session(site.line)
    assert new["id"] != lost["id"]
    sessions = {session["id"]: session for session in await installation.staff.do("list_sessions", site.line.tunnel_id)}
    assert sessions[lost["id"]]["code"] == "LOST"


async def test_kill_9_of_the_gateway_resets_what_it_carried_and_the_client_comes_back(
    installation: Installation, programs: Programs, site: Site
) -> None:
    conversation = await Conversation.open(site.line.port)
    lost = await installation.live_session(site.line)
    after = len(site.client.read_log())
    site.gateway.program.signal(signal.SIGKILL)
    await conversation.wait_for_reset(5)
    await site.client.wait_for("not connected", "next attempt in", after=after)

    await installation.start_gateway(programs, name=site.gateway.name, port=site.gateway.port)
    await site.comes_back(after)
    sessions = {session["id"]: session for session in await installation.staff.do("list_sessions", site.line.tunnel_id)}
    assert not sessions[lost["id"]]["live"], "a session of the killed gateway still counts as live"
    assert (await installation.live_session(site.line))["id"] != lost["id"]


async def test_sigterm_lets_an_open_psql_finish_while_its_client_moves_to_the_next_gateway(
    installation: Installation, programs: Programs
) -> None:
    old = await installation.start_gateway(programs, drain=40)
    line = await installation.make_line(25060)
    client = await installation.start_client(programs, line, old, f"25060={installation.postgres_address}")
    async with await connect(line.port) as open_before:
        await open_before.execute("BEGIN")
        after = len(client.read_log())
        old.program.signal(signal.SIGTERM)
        await client.wait_for("the gateway is stopping; open connections have 40 s", after=after)
        assert not accepts(line.port), "a gateway that stops takes new connections"

        await installation.start_gateway(programs, name=old.name, port=old.port)
        await client.wait_for("connected: tunnel", after=after, bound=BACK)
        await wait_for_listeners(line)
        assert await run_psql(line.port, "-c", "SELECT 'new'") == "new"
        answer = await (await open_before.execute("SELECT 'still here'")).fetchone()
        assert answer == ("still here",)
        assert old.program.running
        await open_before.execute("COMMIT")
    assert await old.program.wait_for_end() == 0  # long before its time is over: nothing is open any more
    assert "Traceback" not in old.program.read_log()
    assert await run_psql(line.port, "-c", "SELECT 'new'") == "new"


async def test_what_does_not_finish_in_the_drain_time_is_reset(
    installation: Installation, programs: Programs, services: Services
) -> None:
    gateway = await installation.start_gateway(programs, drain=1)
    line = await installation.make_line(1)
    client = await installation.start_client(programs, line, gateway, f"1={await services.start(echo)}")
    conversation = await Conversation.open(line.port)
    gateway.program.signal(signal.SIGTERM)
    await conversation.wait_for_reset(10)
    assert await gateway.program.wait_for_end() == 0
    assert client.running


# -- minutes of time ------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def relay(site: Site) -> AsyncIterator[Relay]:
    """A way to the gateway of the site that can fail."""
    relay = Relay(site.gateway.port)
    await relay.start()
    yield relay
    await relay.stop()


@pytest.mark.wide
@pytest.mark.timeout(240)
async def test_a_dropped_network_resets_within_30_s_and_the_client_comes_back(
    installation: Installation, programs: Programs, site: Site, relay: Relay
) -> None:
    line = await installation.make_line(1)
    url = site.gateway.url(line.name, relay.port)
    client = await installation.start_client(programs, line, url, f"1={site.upstream}")
    idle, busy = [await Conversation.open(line.port) for _ in range(2)]
    after = len(client.read_log())
    relay.swallow()

    async def keep_asking() -> float:
        with contextlib.suppress(TimeoutError):
            await busy.ask(bound=1)
        return await busy.wait_for_reset(BOUND)

    took = await asyncio.gather(idle.wait_for_reset(BOUND), keep_asking())
    print(f"dropped network: connections were reset after {took} s")
    await client.wait_for("nothing heard from the peer", after=after, bound=BOUND)
    await relay.refuse()
    await client.wait_for("refuses the connection", after=after, bound=BACK)
    await relay.heal()
    await client.wait_for("connected: tunnel", after=after, bound=BACK)
    await until(lambda: answers(line.port), "an answer through the new session")


@pytest.mark.wide
@pytest.mark.timeout(240)
async def test_a_client_that_stands_still_is_given_up_within_30_s_and_comes_back(site: Site) -> None:
    conversation = await Conversation.open(site.line.port)
    after = len(site.client.read_log())
    site.client.signal(signal.SIGSTOP)  # its kernel still answers for it
    took = await conversation.wait_for_reset(BOUND)
    print(f"client that stands still: connections were reset after {took:.1f} s")
    await site.gateway.program.wait_for(site.line.name, "ended", "nothing heard")
    site.client.signal(signal.SIGCONT)
    await site.comes_back(after)


@pytest.mark.wide
@pytest.mark.timeout(240)
async def test_a_gateway_that_stands_still_is_noticed_by_the_client(site: Site) -> None:
    after = len(site.client.read_log())
    site.gateway.program.signal(signal.SIGSTOP)
    await site.client.wait_for("nothing heard from the peer", after=after, bound=BOUND)
    site.gateway.program.signal(signal.SIGCONT)
    await site.comes_back(after)


class Cable:
    """A network of its own behind a cable that can be pulled: neither side's card notices."""

    def __init__(self, ip: str) -> None:
        self._ip = ip
        self._name = f"ml{os.getpid() % 100_000}"
        octet = os.getpid() % 250
        self.here, self.there = f"10.213.{octet}.1", f"10.213.{octet}.2"

    @property
    def inside(self) -> tuple[str, ...]:
        """What stands in front of a command that runs behind the cable."""
        return (self._ip, "netns", "exec", self._name)

    def plug_in(self) -> None:
        """Make the network: a bridge on this side, a namespace on the other."""
        name = self._name
        self._run("netns", "add", name)
        self._run("link", "add", f"{name}b", "type", "bridge")
        self._run("link", "add", f"{name}h", "type", "veth", "peer", "name", "eth0", "netns", name)
        self._run("addr", "add", f"{self.here}/24", "dev", f"{name}b")
        for link in (f"{name}b", f"{name}h"):
            self._run("link", "set", link, "up")
        self._run("-n", name, "addr", "add", f"{self.there}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            self._run("-n", name, "link", "set", link, "up")
        self.restore()

    def pull(self) -> None:
        self._run("link", "set", f"{self._name}h", "nomaster")

    def restore(self) -> None:
        self._run("link", "set", f"{self._name}h", "master", f"{self._name}b")

    def remove(self) -> None:
        for words in (
            ("netns", "del", self._name),
            ("link", "del", f"{self._name}b"),
            ("link", "del", f"{self._name}h"),
        ):
            subprocess.run([self._ip, *words], capture_output=True, check=False)

    def _run(self, *words: str) -> None:
        subprocess.run([self._ip, *words], capture_output=True, check=True)


@pytest.fixture
def cable() -> Iterator[Cable]:
    """A network namespace behind a bridge; only root makes one."""
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    cable = Cable(require_program("ip"))
    try:
        cable.plug_in()
        yield cable
    finally:
        cable.remove()


@pytest.mark.wide
@pytest.mark.timeout(240)
async def test_a_pulled_cable_resets_within_30_s_and_the_client_comes_back(
    installation: Installation, programs: Programs, services: Services, cable: Cable
) -> None:
    gateway = await installation.start_gateway(programs, bind=cable.here, ALLOWED_HOSTS="*")
    line = await installation.make_line(1)
    upstream = await services.start(echo, host=cable.here)
    url = f"ws://{cable.here}:{gateway.port}/{line.name}"
    client = await installation.start_client(programs, line, url, f"1={upstream}", prefix=cable.inside)
    conversation = await Conversation.open(line.port)
    after = len(client.read_log())
    cable.pull()
    took = await conversation.wait_for_reset(BOUND)
    print(f"pulled cable: the connection was reset after {took:.1f} s")
    await client.wait_for("not connected", after=after, bound=BOUND)
    cable.restore()
    await client.wait_for("connected: tunnel", after=after, bound=BACK)
    await until(lambda: answers(line.port), "an answer through the new session")
