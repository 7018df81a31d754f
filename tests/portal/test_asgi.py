"""The processes that ``serve`` starts, asked by strangers, load balancers and people with forms."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOUND = 30.0  # seconds that anything here may take
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: moorline.v1\r\n"
)


@dataclass
class Served:
    """A process that serves one role, and its log."""

    role: str
    port: int
    log: Path

    def ask(self, request: bytes) -> bytes:
        """Return what is answered, at least the head."""
        with socket.create_connection(("127.0.0.1", self.port), BOUND) as connection:
            connection.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                part = connection.recv(65536)
                assert part, answer
                answer += part
        return answer

    def status(self, request: bytes) -> int:
        return int(self.ask(request).split()[1])

    def get(self, path: str, host: str = "127.0.0.1") -> int:
        return self.status(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


@pytest.fixture(scope="module", params=["portal", "gateway", "all"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey_url: str
) -> Iterator[Served]:
    with serve(request.param, tmp_path_factory.mktemp(request.param), valkey_url) as process:
        yield process


@contextmanager
def serve(role: str, folder: Path, valkey_url: str) -> Iterator[Served]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MOORLINE_", "DJANGO_"))}
    environ |= {"MOORLINE_SECRET_KEY": "a-Key-0f-the-Tests." * 4, "MOORLINE_DATA": str(folder)}
    environ |= {"MOORLINE_REDIS_URL": valkey_url}
    manage = [sys.executable, "manage.py"]
    subprocess.run([*manage, "migrate", "-v0"], cwd=ROOT, env=environ, check=True, timeout=BOUND)
    log = folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*manage, "serve", "--role", role, "--port", "0"], cwd=ROOT, env=environ, stdout=stderr, stderr=stderr
        )
    try:
        deadline = time.monotonic() + BOUND
        while (listening := re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Served(role, int(listening[1]), log)
    finally:
        process.terminate()
        process.wait(BOUND)
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_answered_whatever_the_host(served: Served, path: str) -> None:
    assert served.get(path, host="10.1.2.3:8000") == 200
    assert served.get(path, host="!?") == 200


def test_a_foreign_host_makes_one_line_in_the_log_at_most(served: Served) -> None:
    before = served.log.read_text()
    status = served.get("/admin/", host="evil.example")
    lines = served.log.read_text().removeprefix(before).splitlines()
    if served.role == "gateway":  # it has no pages, for whatever Host
        assert (status, lines) == (404, [])
    else:
        assert status == 400
        assert len(lines) == 1
        assert "evil.example" in lines[0]


def test_nobody_says_below_which_path_the_pages_live(served: Served) -> None:
    head = b"GET /admin/ HTTP/1.1\r\nHost: 127.0.0.1\r\nDaphne-Root-Path: //evil.example\r\n\r\n"
    answer = served.ask(head)
    if served.role == "gateway":
        assert answer.startswith(b"HTTP/1.1 404 ")
    else:
        assert answer.startswith(b"HTTP/1.1 302 ")
        assert b"evil" not in answer


def test_an_unknown_page_is_not_found(served: Served) -> None:
    if served.role == "gateway":
        assert served.get("/") == 404
        assert served.get("/acmeco/prod") == 426
    assert served.get("/favicon.ico") == 404
    assert served.get("/acmeco/prod%0A") == 404


@pytest.mark.parametrize("path", ["/acmeco/prod", "/acmeco/pr%0Aod", "/acmeco/prod%0A", "/", "/a/b/c"])
def test_an_upgrade_without_a_token_is_refused_whatever_the_path(served: Served, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode() + UPGRADE + b"\r\n"
    if served.role == "portal":
        assert served.status(head) == 404
    else:
        assert served.status(head) == 401


def test_a_form_may_have_a_body_and_not_a_long_one(served: Served) -> None:
    body = b"username=x&next=" + b"y" * 200_000  # more than Twisted keeps in memory

    def post(path: bytes, framing: bytes, content: bytes) -> int:
        head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n%b\r\n\r\n"
        return served.status(head % (path, framing) + content)

    taken = 413 if served.role == "gateway" else 403  # it has no CSRF token
    assert post(b"/admin/login/", b"Content-Length: %d" % len(body), body) == taken
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert post(b"/admin/login/", b"Transfer-Encoding: chunked", chunks) == taken
    assert post(b"/admin/login/", b"Content-Length: 2621441", b"") == 413
    assert post(b"/admin/login/", b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (2_621_441, bytes(2_621_441))) == 413
    assert post(b"/acmeco/prod", b"Content-Length: 1", b"x") == 413
