"""The token of a client: where it is kept, and reading it again when it was changed there."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MAX_TOKEN: Final = 4096  # bytes


@dataclass(frozen=True)
class TokenSource:
    """A token as text, or the file it is read from at every connection, so that a new one needs no restart."""

    text: str = field(default="", repr=False)
    path: Path = Path()

    def __post_init__(self) -> None:
        if self.text:
            _check_token(self.text, "the token")

    def read(self) -> str:
        """Return the token. Raises ValueError with what to do where there is none; never with the token in it."""
        if self.text:
            return self.text
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_TOKEN + 1)
        except FileNotFoundError:
            raise ValueError(f"{self.path} does not exist; put the token into it, or give another file") from None
        except OSError as error:
            raise ValueError(f"{self.path} can't be read: {error.strerror}") from None
        try:
            token = content.decode("ascii").strip()
        except UnicodeDecodeError:
            raise ValueError(f"{self.path} holds more than a token: characters that no token has") from None
        return _check_token(token, str(self.path))

    def check(self) -> TokenSource:
        """Return this source when a token can be read from it. Raises ValueError."""
        self.read()
        return self


def _check_token(token: str, where: str) -> str:
    if not token:
        raise ValueError(f"{where} is empty; put the token into it")
    # RFC 6750 section 2.1: a bearer token is of visible characters, without spaces.
    if len(token) > MAX_TOKEN or not token.isascii() or not all("!" <= char <= "~" for char in token):
        raise ValueError(f"{where} holds more than a token: one word on one line is expected")
    return token


def warn_of_readers(path: Path) -> list[str]:
    """Return a warning where others than the owner may read the file with the token."""
    if os.name != "posix":
        return []
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return []
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return [f"{path} holds the token and others may read it (mode {mode:04o}): chmod 600 {path}"]
    return []
