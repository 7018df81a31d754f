"""System checks: what a start should refuse or warn about, said in one line each."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import ERROR, WARNING, CheckMessage, Error, Tags, Warning, register

SECRET_KEY_LENGTH = 50
SECRET_KEY_DISTINCT_CHARACTERS = 5


@register(Tags.security)
def check_secret_key(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Refuse a secret key that could be guessed, unless this is a machine for developing."""
    key = settings.SECRET_KEY
    strong = len(key) >= SECRET_KEY_LENGTH and len(set(key)) >= SECRET_KEY_DISTINCT_CHARACTERS
    if strong or settings.DEBUG:
        return []
    return [
        Error(
            f"MOORLINE_SECRET_KEY is weak: it has fewer than {SECRET_KEY_LENGTH} characters or repeats a few.",
            hint='Make one with: python3 -c "import secrets; print(secrets.token_urlsafe(48))"',
            id="moorline.E001",
        )
    ]


@register()
def check_redis_url(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Ask for Redis: without it no worker runs, and gateways learn of a change up to 30 seconds late."""
    if settings.MOORLINE_REDIS_URL:
        return []
    level = WARNING if settings.DEBUG else ERROR
    return [
        CheckMessage(
            level,
            "MOORLINE_REDIS_URL is not set: no worker can run, and gateways notice changes late.",
            hint="Set it to the address of a Redis or Valkey, such as redis://127.0.0.1:6379/0",
            id="moorline.E002",
        )
    ]


@register(Tags.security)
def check_allowed_hosts(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Warn when the portal answers to any name."""
    if settings.DEBUG or "*" not in settings.ALLOWED_HOSTS:
        return []
    return [
        Warning(
            "MOORLINE_ALLOWED_HOSTS holds '*': the portal answers to any host name.",
            hint="List the names it is reached by.",
            id="moorline.W001",
        )
    ]
