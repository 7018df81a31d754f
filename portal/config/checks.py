"""System checks: what a start should warn about. What it refuses is in portal/config/environment.py."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register


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
