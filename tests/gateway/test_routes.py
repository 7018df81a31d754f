"""Which tunnels a gateway listens for: those that somebody holds, as the portal says, promptly and at little cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from tunnels.gateway.options import GatewayOptions
from tunnels.protocol import Target

from .conftest import StartUpstream, echo, until
from .peers import HTTP, TCP, PeerGrant, PeerHolder, Peers, listening, port_of, tunnel_of
from .test_streams import exchange

ROUTES = "tunnels.gateway.routes"


@pytest_asyncio.fixture
async def peers() -> AsyncIterator[Peers]:
    peers = Peers()
    yield peers
    await peers.stop()


async def test_it_works(peers: Peers) -> None:
    """A gateway listens as soon as somebody holds a session, and no longer than that: an application is refused."""
    holds, other = await peers.start("holds"), await peers.start("other")
    assert port_of(other) is None
    client = await peers.connect(holds)
    port = await listening(other)
    assert port_of(other, HTTP)
    assert client.endpoint.transport is not None
    client.endpoint.transport.abort()
    await until(lambda: other.registry.get("1") is None, "the listeners to close")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_listeners_stay_while_anybody_holds_a_session(peers: Peers) -> None:
    one, other, third = [await peers.start(name) for name in ("one", "other", "third")]
    first, _ = await peers.connect(one), await peers.connect(other)
    port = await listening(third)
    await until(lambda: len(tunnel_of(third).holders) == 2, "both to be known")
    mine = await listening(one)
    assert first.endpoint.transport is not None
    first.endpoint.transport.abort()
    await until(lambda: len(tunnel_of(third).holders) == 1, "one to be gone")
    assert (port_of(third), port_of(one)) == (port, mine)


async def test_changes_of_a_tunnel_are_seen_where_it_has_no_session(peers: Peers) -> None:
    holds, other = await peers.start("holds"), await peers.start("other")
    await peers.connect(holds)
    await listening(other)
    peers.portal.grants["good"] = PeerGrant(tcp_ports={2: 0}, http_port=None, revision=2)
    peers.portal.publish("1", sessions_only=False)
    await listening(other, Target(2))
    await listening(holds, Target(2))
    assert [port_of(gateway, target) for gateway in (holds, other) for target in (TCP, HTTP)] == [None] * 4


async def test_a_notice_of_sessions_renews_no_token(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[str] = []
    holds = await peers.start("holds")
    await peers.connect(holds)

    async def renew(grant: PeerGrant) -> PeerGrant:
        renewed.append(grant.token_id)
        return grant

    monkeypatch.setattr(peers.portal, "renew", renew)
    asked = len(peers.portal.asked)
    peers.portal.publish("1", sessions_only=True)
    await until(lambda: len(peers.portal.asked) > asked, "the route to be read")
    assert renewed == []
    peers.portal.publish("1", sessions_only=False)
    await until(lambda: renewed, "the token to be renewed")


async def test_many_notices_are_few_questions(peers: Peers) -> None:
    peers.portal.grants = {
        str(n): PeerGrant(tunnel=f"t{n}", tunnel_id=str(n), token_id=str(n), http_port=None, tcp_ports={1: 0})
        for n in range(400)
    }
    gateway = await peers.start("one")
    await until(lambda: len(peers.portal.asked) >= 1, "the first question")
    before = len(peers.portal.asked)
    peers.portal.forged = {str(n): (PeerHolder("two", "127.0.0.1", 1),) for n in range(400)}
    for n in range(400):
        peers.portal.publish(str(n))
        peers.portal.publish(str(n))
    await until(lambda: len(gateway.registry) == 400, "all to be listened for")
    assert len(peers.portal.asked) - before <= 3


async def test_very_many_notices_are_one_question_for_all(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{ROUTES}.MAX_ASKED", 10)
    await peers.start("one")
    peers.portal.asked.clear()
    for n in range(50):
        peers.portal.publish(str(n))
    await until(lambda: peers.portal.asked, "the question")
    assert peers.portal.asked[0] is None


async def test_a_lost_notice_is_made_up_for(
    peers: Peers, monkeypatch: pytest.MonkeyPatch, start_upstream: StartUpstream
) -> None:
    monkeypatch.setattr(f"{ROUTES}.REFRESH_INTERVAL", 0.1)
    holds, other = await peers.start("holds"), await peers.start("other")
    peers.portal.silent = True
    client = await peers.connect(holds, {1: await start_upstream(echo)})
    assert await exchange(await listening(other), b"x") == b"x"
    assert client.endpoint.transport is not None
    client.endpoint.transport.abort()
    await until(lambda: other.registry.get("1") is None, "the listeners to close")


async def test_a_notice_of_anything_reads_everything(peers: Peers) -> None:
    await peers.start("one")
    peers.portal.asked.clear()
    peers.portal.publish("")
    await until(lambda: peers.portal.asked == [None], "the question")


async def test_a_portal_that_fails_changes_nothing_and_is_asked_again(
    peers: Peers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(f"{ROUTES}.RETRY_DELAY", 0.05)
    holds, other = await peers.start("holds"), await peers.start("other")
    client = await peers.connect(holds)
    port = await listening(other)
    peers.portal.broken = True
    assert client.endpoint.transport is not None
    client.endpoint.transport.abort()
    await until(lambda: caplog.text.count("the portal could not be asked who holds which tunnel") > 1, "two failures")
    assert port_of(other) == port
    peers.portal.broken = False
    await until(lambda: other.registry.get("1") is None, "the answer")


async def test_a_gateway_whose_portal_does_not_say_what_is_held_does_not_begin(peers: Peers) -> None:
    peers.portal.broken = True
    with pytest.raises(RuntimeError, match="the database is down"):
        await peers.start("one")
    assert not peers.gateways[0].ready


async def test_gateways_that_take_no_hop_are_no_holders(peers: Peers) -> None:
    gateway = await peers.start("one")
    peers.portal.forged["1"] = (
        PeerHolder("two", "", 8001),
        PeerHolder("three", "10.0.0.3", 0),
        PeerHolder("one", "x", 1),
    )
    peers.portal.publish("1")
    await until(lambda: frozenset("1") in peers.portal.asked, "the question")
    peers.portal.asked.clear()
    peers.portal.publish("1")
    await until(lambda: peers.portal.asked, "another question behind the answer")
    assert gateway.registry.get("1") is None


async def test_a_port_that_is_taken_is_said_once_and_tried_again(
    peers: Peers, caplog: pytest.LogCaptureFixture, unused_port: int
) -> None:
    holds, other = await peers.start("holds"), await peers.start("other")
    peers.portal.grants["good"] = PeerGrant(tcp_ports={1: unused_port})
    await peers.connect(holds)
    await until(lambda: "can't listen on 127.0.0.1" in caplog.text, "the line")
    assert port_of(holds) == unused_port
    for _ in range(3):
        asked = len(peers.portal.asked)
        peers.portal.publish("1")
        await until(lambda asked=asked: len(peers.portal.asked) > asked, "the question")
    assert caplog.text.count("can't listen on 127.0.0.1") == 1
    await peers.gateways.pop(0).stop()
    peers.portal.forged["1"] = (PeerHolder("two", "127.0.0.1", 1),)
    peers.portal.publish("1")
    assert await listening(other) == unused_port


# -- dedicated gateways -----------------------------------------------------------------------------------------------


async def test_a_dedicated_gateway_serves_its_customers_alone(peers: Peers) -> None:
    peers.portal.grants["globex"] = PeerGrant(customer="globex", tunnel_id="2", token_id="globex")
    shared, dedicated = await peers.start("shared"), await peers.start("dedicated", customers=("globex",))
    assert peers.portal.gateways["dedicated"].customers == ("globex",)
    refused = await peers.connect(dedicated)
    assert refused.refused == 404
    assert refused.reason == (
        "This gateway does not serve the customer acmeco. Ask your provider for the address of the gateway that does, "
        "and put its host into the URL."
    )
    await peers.connect(shared)
    await peers.connect(shared, token="globex")
    await listening(dedicated, TCP, "2")
    assert dedicated.registry.get("1") is None
    await peers.connect(dedicated, token="globex")
    await until(lambda: tunnel_of(shared, "2").holders, "the shared one to know")


async def test_a_change_of_a_route_is_compared_by_what_it_says(peers: Peers) -> None:
    """Nobody who waits is woken by a refresh that brings nothing new."""
    gateway = await peers.start("one")
    peers.portal.forged["1"] = (PeerHolder("two", "127.0.0.1", 1),)
    peers.portal.publish("1")
    await listening(gateway)
    assert gateway._relay is not None
    change = gateway._relay.next_change("1")
    peers.portal.asked.clear()
    peers.portal.publish("1")
    await until(lambda: peers.portal.asked, "the question")
    peers.portal.publish("1")
    await until(lambda: len(peers.portal.asked) == 2, "another behind the answer")
    assert not change.is_set()
    peers.portal.forged["1"] = (replace(peers.portal.forged["1"][0], draining=True),)
    peers.portal.publish("1")
    await asyncio.wait_for(change.wait(), 5)


def test_peers_need_an_address_and_a_secret() -> None:
    assert GatewayOptions("one", address="10.0.0.1", hop_secret="s").has_peers
    assert not GatewayOptions("one", address="10.0.0.1").has_peers
    assert not GatewayOptions("one", hop_secret="s").has_peers
