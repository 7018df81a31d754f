"""Logging: one line for each thing that happens, for people (text) or for machines (json)."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")
_HIDDEN: Final = ("timestamp", "level", "event", "exception", "logger")

Fields = MutableMapping[str, Any]


def configure_logs(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process, of structlog and of the standard library, to *stream*.

    Arguments: the *log_format*, one of FORMATS; the least *level* that is written, one of LEVELS; the *stream*,
    standard error when None.
    """
    render = render_text if log_format == "text" else structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_processors(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared_processors(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their lines are about their own insides; what matters of them is said in ours.
    logging.getLogger("asyncio").setLevel(max(root.level, logging.WARNING))


def render_text(logger: Any, method: str, fields: Fields) -> str:
    """Return one line: time, level, sentence, and the fields that the sentence does not say already."""
    sentence = str(fields.get("event", ""))
    rest = [f"{name}={value}" for name, value in fields.items() if name not in _HIDDEN and str(value) not in sentence]
    line = "  ".join([str(fields.get("timestamp", "")), f"{fields.get('level', ''):<7}", sentence, *rest])
    if "exception" in fields:
        line += f"  {fields['exception']}"
    return clean_line(line)


def clean_line(text: str) -> str:
    """Return *text* on one line, without the control characters that could forge another or move the cursor."""
    return "".join(char if char.isprintable() else "\\n" if char == "\n" else " " for char in text).rstrip()


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        _add_timestamp,
        structlog.processors.format_exc_info,
    ]


def _add_timestamp(logger: Any, method: str, fields: Fields) -> Fields:
    """Add the time in UTC to the millisecond, in the form of RFC 3339."""
    now = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    fields["timestamp"] = f"{whole}.{int(now % 1 * 1000):03d}Z"
    return fields
