"""The bytes of a message head, as RFC 9112 writes them and no looser.

httptools reads the heads; what it lets through and a stricter reader would not is refused here first, on the raw
bytes: two readers that disagree about a head are what request smuggling is made of.
"""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 section 5.6.2
FIELD_CONTENT: Final = rb"[\t -~\x80-\xff]"  # RFC 9110 section 5.5
# RFC 9112 section 5: no space before the colon, no line folding, and every line ends in CR LF.
FIELD_LINES: Final = rb"(?:" + TOKEN + rb"++:" + FIELD_CONTENT + rb"*+\r\n)*+"

HEAD_END: Final = b"\r\n\r\n"
# What no head may hold, seen before its end has come: a control character, a bare LF, a bare CR.
_MISPLACED = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")


class BadMessage(Exception):
    """A request or a response that is not to be forwarded.

    Arguments: the *status* to answer with, a machine *code* for it, and a *reason* in words.
    """

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason


class HeaderCollector:
    """What httptools reports a head to."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def has_misplaced_bytes(partial: bytes) -> bool:
    """Return whether the beginning of a head can't become a good one, so that nobody waits for its end."""
    return _MISPLACED.search(partial) is not None


def split_list(value: bytes) -> list[bytes]:
    """Return the members of a comma-separated header in lower case (RFC 9110 section 5.6.1)."""
    return [member.strip(b" \t").lower() for member in value.split(b",")]


def join_headers(headers: list[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> bytes:
    """Return the lines of *headers* but for those whose lower-case name is in *dropped*."""
    return b"".join([b"%b: %b\r\n" % header for header in headers if header[0].lower() not in dropped])
