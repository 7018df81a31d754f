"""Waiting for the database, as the pods of a cluster do before they start."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 30.0


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What a database of its own needs, which does not exist yet."""
    return {**os.environ, "MOORLINE_SECRET_KEY": secrets.token_urlsafe(48), "MOORLINE_DATA": str(tmp_path / "data")}


def start(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """Start a command of manage.py."""
    return subprocess.Popen(
        [sys.executable, "-u", "manage.py", *words],
        cwd=ROOT,
        env={**environment, "DJANGO_SETTINGS_MODULE": "portal.config.settings"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process and return its exit code and what it said."""
    try:
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, said


@pytest.fixture
def waiting(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for migrations, and has said so."""
    process = start(environment, "await_database", "--migrated", "--timeout=20")
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("Waiting: Migrations are not applied: "), first
    assert " more." in first
    yield process
    process.kill()
    process.wait(SECONDS)


def test_it_waits_until_every_migration_is_applied(environment: dict[str, str], waiting: subprocess.Popen[str]) -> None:
    assert finish(start(environment, "migrate", "--no-input"))[0] == 0
    code, said = finish(waiting)
    assert (code, said.splitlines()[-1]) == (0, "The database is up to date.")


def test_it_ends_when_the_pod_does(waiting: subprocess.Popen[str]) -> None:
    waiting.send_signal(signal.SIGTERM)
    code, said = finish(waiting)
    assert code == 143
    assert "Traceback" not in said


def test_it_gives_up_and_says_what_is_missing(environment: dict[str, str]) -> None:
    code, said = finish(start(environment, "await_database", "--migrated", "--timeout=0"))
    assert code == 1
    assert said.startswith("CommandError: Gave up after 0 s. Migrations are not applied: ")


def test_a_database_that_answers_is_enough_where_nothing_else_is_asked(environment: dict[str, str]) -> None:
    assert finish(start(environment, "await_database")) == (0, "The database answers.\n")


def test_a_database_that_is_not_there_is_named_without_its_password(environment: dict[str, str]) -> None:
    url = "postgres://moorline:hidden@127.0.0.1:1/moorline"
    code, said = finish(start({**environment, "MOORLINE_DATABASE_URL": url}, "await_database", "--timeout=0"))
    assert code == 1
    assert "The database moorline at 127.0.0.1:1 cannot be used" in said
    assert "hidden" not in said
