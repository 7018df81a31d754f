"""Tell gateways that a tunnel changed, and hear of it, through Redis.

A notice is a hint to look now, nothing more: gateways look at every tunnel they hold twice a minute anyway. So a notice
that is lost costs seconds, and a Redis that is gone breaks no write.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
from django.conf import settings
from django.db import transaction
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

CHANNEL = "moorline:tunnels"
SESSIONS_CHANNEL = "moorline:sessions"
PUBLISH_TIMEOUT_SECONDS = 1.0
# A subscription that is silent for so long is asked for a sign of life, which must come within the second time.
WATCH_IDLE_SECONDS = 15.0
WATCH_REPLY_SECONDS = 5.0
WATCH_FIRST_DELAY_SECONDS = 0.2
WATCH_LONGEST_DELAY_SECONDS = 5.0

log = logging.getLogger(__name__)


def publish_tunnels(tunnel_ids: Iterable[int]) -> None:
    """Tell the gateways that these tunnels changed; a Redis that fails is one line in the log."""
    _publish(CHANNEL, tunnel_ids)


def connect_redis() -> redis.Redis:
    """Connect to Redis for a word or two: it answers within a second, or is done without."""
    return redis.Redis.from_url(
        settings.MOORLINE_REDIS_URL,
        socket_timeout=PUBLISH_TIMEOUT_SECONDS,
        socket_connect_timeout=PUBLISH_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def _publish(channel: str, tunnel_ids: Iterable[int]) -> None:
    payloads = [str(tunnel_id) for tunnel_id in sorted(set(tunnel_ids))]
    if not payloads or not settings.MOORLINE_REDIS_URL:
        return
    try:
        with (
            connect_redis() as client,
            client.pipeline(transaction=False) as pipeline,
        ):
            for payload in payloads:
                pipeline.publish(channel, payload)
            pipeline.execute()
    except (RedisError, OSError) as error:
        log.warning(
            "Redis did not take the notice of changed tunnels (%s); gateways see the change within 30 seconds. "
            "Check that MOORLINE_REDIS_URL names a Redis that runs.",
            _one_line(error),
        )


def publish_on_commit(tunnel_ids: Iterable[int]) -> None:
    """Call `publish_tunnels` once the transaction around this call is committed."""
    ids = list(tunnel_ids)
    transaction.on_commit(lambda: publish_tunnels(ids))


def publish_sessions_on_commit(tunnel_ids: Iterable[int]) -> None:
    """Tell the gateways, once the transaction is committed, that sessions of these tunnels opened or closed."""
    ids = list(tunnel_ids)
    transaction.on_commit(lambda: _publish(SESSIONS_CHANNEL, ids))


@dataclass(frozen=True)
class Change:
    """What was told of: a tunnel that changed, or only that its sessions did.

    Without a tunnel anything may have changed: the subscription is new, and what was said before it was missed.
    """

    tunnel_id: str
    sessions_only: bool = False


async def watch_changes() -> AsyncGenerator[Change, None]:
    """Yield each change of a tunnel or of its sessions, for ever.

    A connection that fails or falls silent is made again, after a delay that grows to 5 seconds. Notices sent in
    between are lost; the new subscription says so. Cancelling the task, or closing the iterator, closes the connection.
    """
    delay = WATCH_FIRST_DELAY_SECONDS
    while True:
        try:
            async with aclosing(_subscribe()) as messages:
                async for message in messages:
                    delay = WATCH_FIRST_DELAY_SECONDS
                    if message["type"] == "message":
                        yield Change(message["data"], sessions_only=message["channel"] == SESSIONS_CHANNEL)
                    elif message["type"] == "subscribe" and message["channel"] == SESSIONS_CHANNEL:
                        yield Change("")
        except (RedisError, OSError) as error:
            log.warning("Lost the notices of changed tunnels (%s); trying again in %.1f s.", _one_line(error), delay)
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
        delay = min(delay * 2, WATCH_LONGEST_DELAY_SECONDS)


async def _subscribe() -> AsyncGenerator[dict[str, Any], None]:
    """Yield what one subscription brings, signs of life included, until it fails."""
    client = redis.asyncio.Redis.from_url(
        settings.MOORLINE_REDIS_URL or "redis://127.0.0.1:6379/0",
        decode_responses=True,
        encoding_errors="replace",  # what is no notice of ours names no tunnel, and must not end the watch
        socket_connect_timeout=WATCH_REPLY_SECONDS,
        retry=AsyncRetry(NoBackoff(), 0),
    )
    async with client, client.pubsub() as subscription:
        await subscription.subscribe(CHANNEL, SESSIONS_CHANNEL)
        asked = True
        while True:
            wait = WATCH_REPLY_SECONDS if asked else WATCH_IDLE_SECONDS
            message = await subscription.get_message(timeout=wait)
            if message is not None:
                asked = False
                yield message
            elif asked:
                raise redis.exceptions.TimeoutError("no answer")
            else:
                await subscription.ping()
                asked = True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
