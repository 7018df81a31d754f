"""A connection of an application as a connection: reading no faster than what is read can go, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, cast

from ...bridge import reset_on_close
from ..sockets import read_buffer
from .deadline import Deadline
from .limits import HttpLimits

HIGH_WATER: Final = 64 * 1024  # bytes of a response that an application has not taken at which credit is held back
LINGER_TIMEOUT: Final = 2.0  # seconds in which an application may read a last response while it still sends


class ApplicationConnection(asyncio.BufferedProtocol, ABC):
    """One accepted connection. *on_end* is called once, when it is gone."""

    def __init__(self, limits: HttpLimits, on_end: Callable[[], None]) -> None:
        self.full = False  # the application does not take what is written
        self._limits = limits
        self._on_end = on_end
        self._buffer = read_buffer()
        self._transport: asyncio.Transport | None = None
        self._input = b""  # read and not yet passed on: less than READ_SIZE and the longest head together
        self._reading_paused = False
        self._eof = False  # the application has sent its last byte
        self._draining = False
        self._closing = False
        self._lingering = False
        self._deadline = Deadline(self._end_wait)

    # -- for what is above --------------------------------------------------------------------------------------------

    @abstractmethod
    def _advance(self) -> None:
        """There is more input, its end, or room for output."""

    @abstractmethod
    def _room_made(self) -> None:
        """The application takes bytes again; :meth:`_advance` follows unless the connection is closing."""

    @abstractmethod
    def _time_out(self) -> None:
        """The deadline has passed with the connection open and not full."""

    @abstractmethod
    def _let_go(self, reason: str) -> None:
        """Part with the upstream: the connection ends."""

    def write(self, data: bytes) -> None:
        """Send *data* to the application, after what waits."""
        if data and self._transport is not None:
            self._transport.write(data)

    def _pause_reading(self, pause: bool) -> None:
        transport = self._transport
        if transport is not None and pause != self._reading_paused:
            self._reading_paused = pause
            if pause:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def _close(self, *, linger: bool = False) -> None:
        """Close when all that is written has left; with *linger* read on for a while.

        A socket that is closed with unread bytes resets the connection, and the last response may be lost with it
        (RFC 9112 section 9.6).
        """
        if self._closing or self._transport is None:
            return
        self._closing = True
        self._input = b""
        self._let_go("the connection is closed")
        if linger and not self._eof:
            self._lingering = True
            self._transport.write_eof()
            self._pause_reading(False)
            self._deadline.set(LINGER_TIMEOUT)
        else:
            self._transport.close()
            self._deadline.set(self._limits.stall_timeout)

    def _reset(self) -> None:
        """Cut the connection so that the application sees an error, never a response that looks whole."""
        transport = self._transport
        if transport is None:
            return
        self._closing = True
        self._let_go("the response can't be completed")
        if (sock := transport.get_extra_info("socket")) is not None:
            reset_on_close(sock)
        transport.abort()

    def _end_wait(self) -> None:
        if self._lingering and self._transport is not None:
            self._lingering = False
            self._transport.close()
            self._deadline.set(self._limits.stall_timeout)
        elif self._closing or self.full:
            self._reset()
        else:
            self._time_out()

    # -- asyncio's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._draining:
            self._close()
            return
        self._transport.set_write_buffer_limits(HIGH_WATER)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._deadline.set(self._limits.idle_timeout)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return  # what is sent to a connection that lingers is dropped
        data = bytes(self._buffer[:nbytes])
        self._input = self._input + data if self._input else data
        self._advance()

    def eof_received(self) -> bool:
        self._eof = True
        if self._closing:
            return False
        self._advance()
        return self._transport is not None and not self._transport.is_closing()

    def pause_writing(self) -> None:
        self.full = True
        if not self._closing:
            self._deadline.set(self._limits.stall_timeout)

    def resume_writing(self) -> None:
        self.full = False
        self._room_made()
        if not self._closing:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closing = True
        self._input = b""
        self._deadline.stop()
        self._let_go("the application closed the connection")
        self._on_end()
