"""A log line is one line, for people or for machines, whatever was put into it."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest
import structlog

from tunnels.logs import clean_line, configure_logs


def logged(log_format: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(log_format, level, stream)
    return stream


def test_a_line_for_people_has_time_level_and_sentence() -> None:
    stream = logged("text")
    structlog.get_logger("x").info("connected: tunnel a/b", tunnel="a/b", line=2)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  info     connected: tunnel a/b  line=2\n", stream.getvalue()
    )


def test_a_line_for_machines_is_one_object_with_every_field() -> None:
    stream = logged("json")
    structlog.get_logger("x").warning("trouble\nhere", tunnel="a/b")
    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert document | {"timestamp": ""} == {
        "event": "trouble\nhere",
        "level": "warning",
        "tunnel": "a/b",
        "timestamp": "",
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_of_the_standard_library_look_the_same(log_format: str) -> None:
    stream = logged(log_format)
    logging.getLogger("tunnels.endpoint").warning("nothing heard for %.0f s", 25.0)
    (line,) = stream.getvalue().splitlines()
    assert "nothing heard for 25 s" in line
    assert "warning" in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_that_is_logged_makes_a_second_line(log_format: str) -> None:
    stream = logged(log_format)
    error = ValueError("x\r\ny")
    structlog.get_logger("x").error("failed\n\x1b[2Jforged", exc_info=error)
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_less_than_the_level_is_not_written() -> None:
    stream = logged("text", "warning")
    structlog.get_logger("x").info("quiet")
    logging.getLogger("x").info("quiet")
    assert stream.getvalue() == ""


def test_text_is_cleaned_of_what_moves_a_cursor() -> None:
    assert clean_line("a\tb\x1b[0m\u202ec\nd") == "a b [0m c\\nd"
