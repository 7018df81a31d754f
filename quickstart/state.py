"""The directory ``.moorline``: what one ``make up`` leaves for the next.

It is readable by its owner alone (mode 0700) and holds the database of the portal, the secrets made for this
installation, the example site's PostgreSQL, the logs, and a lock that only one ``make up`` holds at a time.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from quickstart.errors import StartFailed


class State:
    """Files and directories below one state directory.

    Args:
        directory: where everything is kept; made when it isn't there.

    Raises:
        StartFailed: the directory can't be made or belongs to somebody else.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise StartFailed(
                f"{directory} can't be used ({error.strerror}): give it back to your user, or remove it."
            ) from None

    def make_directory(self, name: str) -> Path:
        """Return the directory `name`, made when it isn't there."""
        path = self.directory / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def keep_secret(self, name: str, size: int) -> str:
        """Return the secret kept in the file `name`, made of `size` random bytes at the first call."""
        path = self.directory / name
        with contextlib.suppress(FileNotFoundError):
            secret = path.read_text(encoding="ascii").strip()
            if secret:
                return secret
        secret = secrets.token_urlsafe(size)
        self.write_private(name, secret + "\n")
        return secret

    def write_private(self, name: str, text: str) -> Path:
        """Put `text` into the file `name` as a whole or not at all, readable by its owner alone."""
        path = self.directory / name
        draft = path.with_name(f".{name}.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
        return path

    @contextlib.contextmanager
    def locked(self, ports: dict[str, int]) -> Iterator[None]:
        """Hold the lock of this directory, and leave in it what runs here.

        Args:
            ports: what `running_ports` answers while the lock is held.

        Raises:
            StartFailed: another process holds the lock.
        """
        with open(self.directory / "lock", "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = _parse_lock(lock.read()).get("pid", "unknown")
                raise StartFailed(
                    f"make up runs in this checkout already (process {holder}): use that one, or stop it with Ctrl-C."
                ) from None
            lock.truncate(0)
            lock.write(json.dumps({"pid": os.getpid(), **ports}))
            lock.flush()
            yield

    def running_ports(self) -> dict[str, int]:
        """Return the ports of the ``make up`` that runs here; empty when none does."""
        try:
            with open(self.directory / "lock", encoding="utf-8") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _parse_lock(lock.read())
        except FileNotFoundError:
            pass
        return {}


def _parse_lock(text: str) -> dict[str, int]:
    try:
        return cast("dict[str, int]", json.loads(text))
    except ValueError:  # its holder is just writing it
        return {}
