"""Say whether the portal runs, and whether it can do its work."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

REDIS_TIMEOUT_SECONDS = 2.0

log = logging.getLogger(__name__)


@never_cache
@require_safe
def healthz(_request: HttpRequest) -> JsonResponse:
    """Answer 200 as long as the process answers at all: what is beside it does not count."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(_request: HttpRequest) -> JsonResponse:
    """Answer 200 when the database and Redis answer, else 503 with what failed; the log says why."""
    checks = {"database": _check_database(), "redis": _check_redis()}
    ready = all(result == "ok" for result in checks.values())
    return JsonResponse({"status": "ok" if ready else "failing", "checks": checks}, status=200 if ready else 503)


def answer_whatever_the_host(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Answer for both pages before other middleware can refuse the Host header: a kubelet sends the pod's address."""
    pages = {"/healthz": healthz, "/readyz": readyz}

    def answer(request: HttpRequest) -> HttpResponseBase:
        page = pages.get(request.path_info)
        return page(request) if page is not None else get_response(request)

    return answer


def _check_database() -> str:
    # How long connecting may take is part of the database's settings.
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        log.warning("The database does not answer: %s", " ".join(str(error).split()))
        return "failing"
    return "ok"


def _check_redis() -> str:
    if not settings.MOORLINE_REDIS_URL:
        return "not set"
    try:
        with redis.Redis.from_url(
            settings.MOORLINE_REDIS_URL,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.ping()
    except (RedisError, OSError) as error:
        log.warning("Redis does not answer: %s", " ".join(str(error).split()))
        return "failing"
    return "ok"
