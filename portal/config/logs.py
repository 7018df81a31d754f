"""Say how log lines look: one line each on standard error, as text for people or JSON for machines."""

from __future__ import annotations

import logging
from typing import Any

import structlog
from django.core.exceptions import DisallowedHost


def configure_logging(*, log_format: str, level: str) -> dict[str, Any]:
    """Build Django's ``LOGGING``.

    Lines of the standard library's loggers and of structlog's come out alike.

    Args:
        log_format: ``text`` or ``json``.
        level: the lowest level that is written, such as ``INFO``.
    """
    renderers: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        renderers += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        renderers += [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    quiet = "DEBUG" if level == "DEBUG" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": renderers,
                "foreign_pre_chain": [
                    structlog.stdlib.add_log_level,
                    structlog.stdlib.add_logger_name,
                    structlog.stdlib.ExtraAdder(),
                    structlog.processors.TimeStamper(fmt="iso", utc=True),
                ],
            }
        },
        "filters": {"foreign_host": {"()": lambda: shorten_foreign_host}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Django brings handlers of its own; its lines go the way of all others.
            "django": {"handlers": [], "propagate": True, "level": level},
            "django.security.DisallowedHost": {"filters": ["foreign_host"]},
            "django.request": {"filters": ["foreign_host"]},
            "django.server": {"handlers": [], "propagate": True, "level": level},
            # Three lines for each task that runs well, every ten seconds, hide all others.
            "celery.beat": {"level": quiet},
            "celery.worker.strategy": {"level": quiet},
            "celery.app.trace": {"level": quiet},
            # A line for each event and each look at /healthz.
            "kopf": {"level": quiet},
            "aiohttp.access": {"level": quiet},
        },
    }


def shorten_foreign_host(record: logging.LogRecord) -> bool:
    """Have a request for a host that is not ours make one line: anybody can send them.

    Django writes one with a traceback, and one more for its answer.
    """
    if record.name == "django.security.DisallowedHost":
        record.exc_info = None
        record.msg, record.args = record.getMessage()[:300], ()
        return True
    request = getattr(record, "request", None)
    if getattr(record, "status_code", None) != 400 or request is None:
        return True
    try:
        request.get_host()
    except DisallowedHost:
        return False
    return True
