"""Sockets of applications: bound and accepted from without ever holding up the loop, and memory to read into."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from abc import ABC, abstractmethod
from typing import Final

logger = logging.getLogger(__name__)

BACKLOG: Final = 1024
ACCEPTS_PER_WAKE: Final = 64
ACCEPT_PAUSE: Final = 1.0  # seconds without accepting when the process has no descriptor left
READ_SIZE: Final = 64 * 1024  # the most that is read of a connection at a time, and so held of it

_shared = threading.local()


def read_buffer() -> memoryview:
    """Return this thread's READ_SIZE bytes to read into; what is read is taken out of them in the same callback."""
    buffer: memoryview | None = getattr(_shared, "buffer", None)
    if buffer is None:
        buffer = _shared.buffer = memoryview(bytearray(READ_SIZE))
    return buffer


class AcceptLoop(ABC):
    """A bound socket and the loop that accepts from it."""

    def __init__(self, host: str, port: int) -> None:
        """Bind; raises OSError where the port is taken or not ours."""
        self._loop = asyncio.get_running_loop()
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._resume: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._socket.fileno(), self._accept_all)

    def stop_accepting(self) -> None:
        """Close the socket; connections it took go on."""
        if self._resume is not None:
            self._resume.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    @abstractmethod
    def _accepted(self, sock: socket.socket, source: str) -> None:
        """Take one connection; *source* is its address as ``host:port``."""

    def _accept_all(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            sock.setblocking(False)
            self._accepted(sock, f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}")

    def _pause_accepting(self, error: OSError) -> None:
        """Wait a little: the socket stays readable, and the loop would do nothing else than fail to accept."""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            logger.error("no file descriptor left for port %d; raise the limit of open files (ulimit -n)", self.port)
        else:
            logger.error("port %d takes no connection: %s", self.port, error.strerror)
        self._loop.remove_reader(self._socket.fileno())
        self._resume = self._loop.call_later(
            ACCEPT_PAUSE, self._loop.add_reader, self._socket.fileno(), self._accept_all
        )


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
