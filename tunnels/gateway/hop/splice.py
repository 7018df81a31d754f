"""Two sockets joined: what comes from one goes to the other, and each is closed or reset as the other was."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Final

from ...bridge import close_socket, keep_alive, reset_on_close, reset_socket
from ..sockets import READ_SIZE, read_buffer

READS_PER_WAKE: Final = 4  # before the loop looks at the others


class Splice:
    """Join two connected, non-blocking sockets, which are the splice's from now on.

    *on_end* is called once, when both are closed; never from within the constructor.
    """

    def __init__(self, one: socket.socket, other: socket.socket, on_end: Callable[[], None]) -> None:
        self.ended = False
        self._on_end = on_end
        for sock in (one, other):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reset_on_close(sock)  # until all went well: when this process is killed, both see an error and not an end
            keep_alive(sock)
        self._ways = (_Way(self, one, other), _Way(self, other, one))

    def check(self) -> None:
        """Called every few seconds: see whether a socket broke that is not read now."""
        for way in self._ways:
            way.check()

    def abort(self) -> None:
        """Reset both connections."""
        self._end(reset=True)

    def end_if_done(self) -> None:
        """Close both sockets when each has said its last byte and heard the other's."""
        if all(way.done for way in self._ways):
            self._end(reset=False)

    def _end(self, *, reset: bool) -> None:
        if self.ended:
            return
        self.ended = True
        for way in self._ways:
            way.stop()
        for way in self._ways:
            if reset:
                reset_socket(way.source)
            else:
                close_socket(way.source)
        self._on_end()


class _Way:
    """One direction: read only while the destination takes all of it, so that no more than one read is held."""

    __slots__ = (
        "_destination",
        "_eof",
        "_error",
        "_held",
        "_loop",
        "_reading",
        "_splice",
        "_writing",
        "done",
        "source",
    )

    def __init__(self, splice: Splice, source: socket.socket, destination: socket.socket) -> None:
        self.source = source
        self.done = False  # the last byte has been passed on, and the half-close behind it
        self._splice = splice
        self._destination = destination
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()
        self._eof = False
        self._error = 0
        self._writing = False
        self._reading = True
        self._loop.add_reader(source.fileno(), self._readable)

    def check(self) -> None:
        if not self._reading and not self._splice.ended and self._has_broken():
            self._splice.abort()

    def stop(self) -> None:
        self._stop_reading()
        self._stop_writing()

    def _readable(self) -> None:
        buffer = read_buffer()
        for _ in range(READS_PER_WAKE):
            try:
                size = self.source.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._splice.abort()
                return
            if not size:
                self._end_reading()
                return
            self._send(buffer[:size])
            if self._held or self._splice.ended:
                return
            if size < READ_SIZE:
                break
        # libuv, and so uvloop, tells of a broken connection once and watches the socket no more.
        if self._has_broken():
            self._loop.call_soon(self._read_rest)

    def _read_rest(self) -> None:
        if self._reading and not self._splice.ended:
            self._readable()

    def _has_broken(self) -> bool:
        if not self._error:
            self._error = self.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # tells once
        return bool(self._error)

    def _send(self, data: memoryview) -> None:
        try:
            taken = self._destination.send(data)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError:
            self._splice.abort()
            return
        if taken < len(data):
            self._held += data[taken:]
            self._stop_reading()
            self._writing = True
            self._loop.add_writer(self._destination.fileno(), self._writable)

    def _writable(self) -> None:
        held = self._held
        try:
            while held:
                del held[: self._destination.send(held)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._splice.abort()
            return
        self._stop_writing()
        if self._eof:
            self._shut()
        else:
            self._reading = True
            self._loop.add_reader(self.source.fileno(), self._readable)

    def _end_reading(self) -> None:
        if self._error:  # what looks like an end behind a reset is none
            self._splice.abort()
            return
        self._stop_reading()
        self._eof = True
        if not self._held:
            self._shut()

    def _shut(self) -> None:
        try:
            self._destination.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self._splice.abort()
                return
        self.done = True
        self._splice.end_if_done()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.source.fileno())

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._destination.fileno())
