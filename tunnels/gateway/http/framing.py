"""Where a body ends (RFC 9112 section 6). Bodies pass as they came; here they are only measured and checked."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from enum import Enum
from typing import Final

from .grammar import FIELD_CONTENT, TOKEN, BadMessage

MAX_LINE: Final = 4096  # bytes of a chunk-size line or of one trailer
MAX_TRAILERS: Final = 16 * 1024

# RFC 9112 section 7.1, without the optional space before an extension and with at most 15 digits: no overflow.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;" + FIELD_CONTENT + rb"*+)?\r\n")
_TRAILER = re.compile(TOKEN + rb"++:" + FIELD_CONTENT + rb"*+\r\n")


class Body(ABC):
    """The body of one message, while it passes."""

    endless = False  # it ends with its connection
    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    @abstractmethod
    def take(self, data: bytes, start: int, out: list[bytes]) -> int:
        """Take what belongs to this body from ``data[start:]``; put what is to be forwarded into *out*.

        Returns where the body's bytes end in *data*. Raises BadMessage.
        """


class LengthBody(Body):
    """A body of *length* bytes, at least 1."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        super().__init__()
        self._left = length

    def take(self, data: bytes, start: int, out: list[bytes]) -> int:
        end = min(len(data), start + self._left)
        self._left -= end - start
        self.done = not self._left
        out.append(data[start:end])
        return end


class EndlessBody(Body):
    """A response body that ends with its connection."""

    endless = True
    __slots__ = ()

    def take(self, data: bytes, start: int, out: list[bytes]) -> int:
        out.append(data[start:])
        return len(data)


class _Expect(Enum):
    SIZE = "a chunk size"
    DATA = "the data of a chunk"
    DATA_END = "the end of a chunk"
    TRAILER = "a trailer or the end"


class ChunkedBody(Body):
    """A chunked body (RFC 9112 section 7.1).

    Arguments: *framed*, whether to forward the chunks as they are or only their data; *trailers*, whether to forward
    trailers too.
    """

    __slots__ = ("_expect", "_framed", "_left", "_partial", "_trailer_size", "_trailers")

    def __init__(self, *, framed: bool = True, trailers: bool = False) -> None:
        super().__init__()
        self._framed = framed
        self._trailers = trailers and framed
        self._expect = _Expect.SIZE
        self._left = 0
        self._partial = b""  # a line whose end has not come
        self._trailer_size = 0

    def take(self, data: bytes, start: int, out: list[bytes]) -> int:
        at, size = start, len(data)
        while at < size and not self.done:
            if self._expect is _Expect.DATA:
                end = min(size, at + self._left)
                out.append(data[at:end])
                self._left -= end - at
                if not self._left:
                    self._expect = _Expect.DATA_END
            else:
                end = data.find(b"\n", at) + 1
                line = self._partial + data[at : end or size]
                if not end:
                    self._hold(line)
                    return size
                self._partial = b""
                if self._take_line(line):
                    out.append(line)
            at = end
        return at

    def _hold(self, line: bytes) -> None:
        if len(line) > (1 if self._expect is _Expect.DATA_END else MAX_LINE):
            raise BadMessage(
                400, "BAD_CHUNK", f"a line of a chunked body is too long where {self._expect.value} belongs"
            )
        self._partial = line

    def _take_line(self, line: bytes) -> bool:
        """Take one whole line and return whether it is to be forwarded."""
        if self._expect is _Expect.SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None or len(line) > MAX_LINE:
                raise BadMessage(400, "BAD_CHUNK", "a chunk size is malformed")
            self._left = int(match[1], 16)
            self._expect = _Expect.DATA if self._left else _Expect.TRAILER
            return self._framed
        if line == b"\r\n":
            if self._expect is _Expect.DATA_END:
                self._expect = _Expect.SIZE
            else:
                self.done = True
            return self._framed
        if self._expect is _Expect.DATA_END:
            raise BadMessage(400, "BAD_CHUNK", "a chunk is longer than its size says")
        self._trailer_size += len(line)
        if _TRAILER.fullmatch(line) is None or self._trailer_size > MAX_TRAILERS:
            raise BadMessage(400, "BAD_CHUNK", "a trailer is malformed or the trailers are too long")
        return self._trailers
