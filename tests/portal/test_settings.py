"""What the environment may say, and what a start says of it."""

from __future__ import annotations

import logging
import logging.config
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks

from portal.config.environment import SettingError, read_database_url, read_environment
from portal.config.logs import configure_logging

STRONG_KEY = "abcdefghij" * 5
KEY = {"MOORLINE_SECRET_KEY": STRONG_KEY}
ROOT = Path(__file__).resolve().parents[2]


def test_a_secret_key_is_enough(tmp_path: Path) -> None:
    environment = read_environment(KEY | {"MOORLINE_DATA": str(tmp_path)})
    assert environment.database["NAME"] == tmp_path / "moorline.sqlite3"
    assert environment.database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert environment.public_url == "http://127.0.0.1:8000"
    assert environment.allowed_hosts == ["127.0.0.1", "localhost"]
    assert environment.csrf_trusted_origins == ["http://127.0.0.1:8000"]
    assert (environment.http_listen_start, environment.max_sessions, environment.max_streams) == (8001, 16, 4096)
    assert not environment.debug


def test_the_public_url_says_which_hosts_and_origins_are_ours() -> None:
    environment = read_environment(KEY | {"MOORLINE_PUBLIC_URL": "https://line.example:8443/"})
    assert environment.public_url == "https://line.example:8443"
    assert environment.csrf_trusted_origins == ["https://line.example:8443"]
    assert "line.example" in environment.allowed_hosts


def test_a_value_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"  {STRONG_KEY}\n")
    assert read_environment({"MOORLINE_SECRET_KEY_FILE": str(tmp_path / "key")}).secret_key == STRONG_KEY


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"MOORLINE_SECRET_KEY": ""},
            "MOORLINE_SECRET_KEY is not set. Set it, or MOORLINE_SECRET_KEY_FILE, to at least",
        ),
        (
            {"MOORLINE_SECRET_KEY_FILE": "/etc/hostname"},
            "Both MOORLINE_SECRET_KEY and MOORLINE_SECRET_KEY_FILE are set. Unset one of them.",
        ),
        (
            {"MOORLINE_REDIS_URL_FILE": "/does/not/exist"},
            "MOORLINE_REDIS_URL_FILE names /does/not/exist, which cannot be read: No such file or directory.",
        ),
        ({"MOORLINE_PORT": "0"}, "MOORLINE_PORT is '0'. Set it to a whole number from 1 to 65535."),
        ({"MOORLINE_PORT": "http"}, "MOORLINE_PORT is 'http'. Set it to a whole number from 1 to 65535."),
        (
            {"MOORLINE_HTTP_LISTEN_START": "65536"},
            "MOORLINE_HTTP_LISTEN_START is '65536'. Set it to a whole number from 1 to 65535.",
        ),
        ({"MOORLINE_MAX_SESSIONS": "0"}, "MOORLINE_MAX_SESSIONS is '0'. Set it to a whole number from 1 to 1024."),
        ({"MOORLINE_MAX_STREAMS": "٣"}, "MOORLINE_MAX_STREAMS is '٣'. Set it to a whole number from 1 to 1000000."),
        ({"MOORLINE_DEBUG": "maybe"}, "MOORLINE_DEBUG is 'maybe'. Set it to 1 or 0."),
        ({"MOORLINE_LOG_FORMAT": "xml"}, "MOORLINE_LOG_FORMAT is 'xml'. Set it to one of: text, json."),
        ({"MOORLINE_PUBLIC_URL": "line"}, "MOORLINE_PUBLIC_URL is not a URL that begins with http:// or https://."),
        (
            {"MOORLINE_REDIS_URL": "redis://:secret@host:port"},
            "MOORLINE_REDIS_URL is not a URL that begins with redis:// or rediss:// or unix://.",
        ),
        (
            {"MOORLINE_CSRF_TRUSTED_ORIGINS": "line.example"},
            "MOORLINE_CSRF_TRUSTED_ORIGINS is not a URL that begins with http:// or https://.",
        ),
        ({"MOORLINE_DATABASE_URL": "mysql://x"}, "MOORLINE_DATABASE_URL must begin with sqlite:/// or postgres://."),
        (
            {"MOORLINE_DATABASE_URL": "sqlite://"},
            "MOORLINE_DATABASE_URL has no path. Write sqlite:///path/to/moorline.sqlite3.",
        ),
        (
            {"MOORLINE_DATABASE_URL": "postgres://host"},
            "MOORLINE_DATABASE_URL names no database. Write postgres://user:password@host:5432/name.",
        ),
        (
            {"MOORLINE_DATABASE_URL": "postgres://host:x/db"},
            "MOORLINE_DATABASE_URL has a port that is not a number from 1 to 65535.",
        ),
        (
            {"MOORLINE_DATABASE_URL": "postgres://host/db?ssl=on"},
            "MOORLINE_DATABASE_URL has the unknown option 'ssl'. Known are: application_name, connect_timeout, sslcert,"
            " sslkey, sslmode, sslrootcert.",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError) as error:
        read_environment(KEY | environ)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert "secret@" not in str(error.value)


def test_a_postgres_url_is_read_whole() -> None:
    url = "postgresql://us%40er:p%2Fw@db.example:5433/moor%20line?sslmode=require&connect_timeout=9"
    database = read_database_url(url)
    assert database["ENGINE"] == "django.db.backends.postgresql"
    assert (database["USER"], database["PASSWORD"], database["NAME"]) == ("us@er", "p/w", "moor line")
    assert (database["HOST"], database["PORT"]) == ("db.example", "5433")
    assert database["OPTIONS"]["sslmode"] == "require"
    assert database["OPTIONS"]["connect_timeout"] == "9"


def test_a_postgres_url_may_name_a_unix_socket() -> None:
    assert read_database_url("postgres:///moorline?host=/run/postgresql")["HOST"] == "/run/postgresql"


def run_manage(tmp_path: Path, command: str = "check", **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MOORLINE_", "DJANGO_"))}
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", command],
        env=clean | {"MOORLINE_DATA": str(tmp_path / "data")} | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_program_that_is_started_without_a_key_ends_with_one_line(tmp_path: Path) -> None:
    ended = run_manage(tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("moorline: MOORLINE_SECRET_KEY is not set.")
    assert ended.stderr.count("\n") == 1


def test_a_data_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    ended = run_manage(tmp_path, MOORLINE_SECRET_KEY=STRONG_KEY)
    assert ended.returncode == 1
    assert "Set MOORLINE_DATA to a folder you can write to." in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_fresh_installation_passes_its_checks_before_it_is_migrated(tmp_path: Path) -> None:
    ended = run_manage(
        tmp_path,
        MOORLINE_SECRET_KEY=STRONG_KEY,
        MOORLINE_PUBLIC_URL="https://line.example",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def found(**changes: Any) -> list[str]:
    return [f"{one.id} {one.msg}" for one in run_checks() if one.id.startswith("moorline.")]


@pytest.mark.parametrize("key", ["abcdefghij" * 4, "ab" * 40])
def test_a_weak_secret_key_is_refused_except_in_debug_mode(key: str) -> None:
    with pytest.raises(SettingError, match=r"^MOORLINE_SECRET_KEY is weak: .* makes a good one\.$"):
        read_environment({"MOORLINE_SECRET_KEY": key})
    assert read_environment({"MOORLINE_SECRET_KEY": key, "MOORLINE_DEBUG": "1"}).secret_key == key


def test_a_weak_secret_key_ends_a_program_with_one_line(tmp_path: Path) -> None:
    ended = run_manage(tmp_path, MOORLINE_SECRET_KEY="short")
    assert ended.returncode == 1
    assert ended.stderr.startswith("moorline: MOORLINE_SECRET_KEY is weak")
    assert ended.stderr.count("\n") == 1


def test_serving_without_redis_is_refused_in_one_line_and_migrating_is_not(tmp_path: Path) -> None:
    ended = run_manage(tmp_path, "serve", MOORLINE_SECRET_KEY=STRONG_KEY)
    assert ended.returncode == 1
    assert "MOORLINE_REDIS_URL is not set." in ended.stderr
    assert ended.stderr.count("\n") == 1
    migrated = run_manage(tmp_path, "migrate", MOORLINE_SECRET_KEY=STRONG_KEY)
    assert (migrated.returncode, migrated.stderr) == (0, "")


@pytest.mark.parametrize("command", ["migrate", "create_admin"])
def test_a_postgres_that_is_not_there_is_told_in_one_line_without_its_password(tmp_path: Path, command: str) -> None:
    with socket.socket() as closed:  # bound and not listening: connecting is refused
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        ended = run_manage(
            tmp_path,
            command,
            MOORLINE_SECRET_KEY=STRONG_KEY,
            MOORLINE_DATABASE_URL=f"postgres://moor:hidden-word@127.0.0.1:{port}/line",
            MOORLINE_ADMIN_PASSWORD="correct horse battery",
        )
    assert ended.returncode == 1
    assert f"The database line at 127.0.0.1:{port} cannot be used (" in ended.stderr
    assert ended.stderr.endswith("Check that it runs, and MOORLINE_DATABASE_URL.\n")
    assert ended.stderr.count("\n") == 1
    assert "hidden-word" not in ended.stderr


def test_answering_to_any_host_is_told(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert [line.split()[0] for line in found()] == ["moorline.W001"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_line_is_one_line(log_format: str) -> None:
    config = configure_logging(log_format=log_format, level="INFO")
    formatter = logging.config.DictConfigurator(config).configure_formatter(config["formatters"]["line"])
    line = formatter.format(logging.LogRecord("portal.x", logging.INFO, "f", 1, "a %s", ("b",), None))
    assert "a b" in line
    assert "portal.x" in line
    assert "\n" not in line
    assert line.startswith("{") is (log_format == "json")
