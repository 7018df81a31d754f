"""One TCP connection <-> one stream, with no bytes queued in between but what a socket would not take.

:class:`SocketBridge` moves bytes between the socket and the frame without a copy, where the loop can watch sockets
(``add_reader``). :class:`ProtocolBridge` does the same over an asyncio transport, for loops that can't (Windows) and
for TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, cast

from .endpoint import Endpoint
from .protocol import ErrorCode, Stream

READ_SIZE: Final = 16384
HALF_CLOSE_TIMEOUT: Final = 60.0  # seconds of silence
READS_PER_WAKE: Final = 4  # frames that one stream sends before the loop looks at the others
_LINGER_RESET: Final = struct.pack("ii", 1, 0)
_LINGER_OFF: Final = struct.pack("ii", 0, 0)


def reset_socket(sock: socket.socket) -> None:
    """Close *sock* with a TCP reset, so that its peer sees an error instead of an end."""
    reset_on_close(sock)
    sock.close()


def reset_on_close(sock: socket.socket) -> None:
    """Have *sock* be reset when it is closed, also by the end of this process."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def close_socket(sock: socket.socket) -> None:
    """Close *sock* in good order, whatever was to become of it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    sock.close()


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice within a minute that the machine at the other end is gone."""
    options = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))  # seconds, seconds, times
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Bridge(ABC):
    """What both bridges share: a stream, the half-closes, the end.

    A stream is bound with :meth:`bind`; bytes that arrive before the socket is there are held, within the window.
    *on_end* is called once, when the connection and the stream are both gone.
    """

    def __init__(self, endpoint: Endpoint, on_end: Callable[[], None] | None = None) -> None:
        self._endpoint = endpoint
        self._on_end = on_end
        # Received, not yet taken by the socket; one piece, so that many small frames cost no more than their bytes.
        self._held = bytearray()
        self._fin_received = False
        self._fin_written = False
        self._fin_sent = False
        self._ended = False
        self.stream: Stream

    def bind(self, stream: Stream) -> None:
        """Join the stream; call it before anything else."""
        self.stream = stream

    # -- StreamHandler ------------------------------------------------------------------------------------------------

    def stream_accepted(self) -> None:  # noqa: B027 - most have nothing to do
        """Nothing to do: bytes flow without waiting."""

    def session_draining(self) -> None:  # noqa: B027 - whether a connection has more to say only its ends know
        """Nothing to do: the connection may go on until the session ends."""

    def check_connection(self) -> None:  # noqa: B027 - the other kind watches by itself
        """Nothing to do where the event loop sees a connection break."""

    def stream_rejected(self, code: ErrorCode, reason: str) -> None:
        self._end(reset=True)

    def stream_reset(self, code: ErrorCode, reason: str) -> None:
        self._end(reset=True)

    @abstractmethod
    def data_received(self, data: memoryview) -> None: ...

    @abstractmethod
    def resume_sending(self) -> None: ...

    def fin_received(self) -> None:
        self._fin_received = True
        if not self._held:
            self._finish_writing()

    def give_up(self, code: ErrorCode, reason: str) -> None:
        """Reset the stream and the connection."""
        if not self._ended:
            self._endpoint.reset_stream(self.stream, code, reason)
            self._end(reset=True)

    # -- for the two kinds --------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _connected(self) -> bool:
        """Whether the connection is there."""

    @abstractmethod
    def _shutdown_writing(self) -> None:
        """Half-close the socket: the peer's last byte has been written."""

    @abstractmethod
    def _close_connection(self, reset: bool) -> None:
        """Let go of the socket, with a reset where the other end must see an error."""

    def _finish_writing(self) -> None:
        # A FIN that comes while the upstream is still dialled waits for the connection, as held bytes do.
        if self._connected and not self._fin_written:
            self._fin_written = True
            self._shutdown_writing()
            self._end_if_done()

    def _finish_reading(self) -> None:
        """The socket has said its last byte."""
        self._fin_sent = True
        self._endpoint.send_fin(self.stream)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._fin_sent and self._fin_written:
            self._end(reset=False)

    def _fail(self, error: OSError | None) -> None:
        """The connection broke: reset the stream, and with it the other end's connection."""
        reason = (error.strerror or type(error).__name__) if error is not None else "connection lost"
        self.give_up(ErrorCode.CANCELLED, reason)

    def _end(self, reset: bool) -> None:
        if not self._ended:
            self._ended = True
            self._held.clear()
            self._close_connection(reset)
            if self._on_end is not None:
                self._on_end()


class SocketBridge(Bridge):
    """The fast path: ``recv_into`` the frame's place, ``send`` from the message's memory."""

    def __init__(self, endpoint: Endpoint, on_end: Callable[[], None] | None = None) -> None:
        super().__init__(endpoint, on_end)
        self._socket: socket.socket | None = None
        self._fd = -1
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._writing = False
        self._error = 0  # the errno of a connection that broke while bytes of it were still to be read

    def connect(self, sock: socket.socket) -> None:
        """Take a connected, non-blocking socket and start to move bytes; it is the bridge's from now on."""
        if self._ended:
            reset_socket(sock)
            return
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reset_on_close(sock)  # until all went well: when this process is killed, the peer sees an error and not an end
        keep_alive(sock)
        self._socket = sock
        self._fd = sock.fileno()
        self._reading = True
        self._loop.add_reader(self._fd, self._readable)
        self._writable()

    def data_received(self, data: memoryview) -> None:
        sock = self._socket
        if sock is None or self._held:
            self._held += data
            return
        size = len(data)
        try:
            taken = sock.send(data)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError as error:
            self._fail(error)
            return
        if taken:
            self._endpoint.consume(self.stream, taken)
        if taken < size:
            self._held += data[taken:]
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)

    def resume_sending(self) -> None:
        if self._socket is not None and not self._fin_sent and not self._ended:
            if not self._reading:
                self._reading = True
                self._loop.add_reader(self._fd, self._readable)
            self._readable()

    def _readable(self) -> None:
        endpoint, stream, sock = self._endpoint, self.stream, self._socket
        if sock is None:
            return
        buffer = endpoint.bulk_buffer()
        for number in range(READS_PER_WAKE):
            allowed = endpoint.may_send(stream)
            if not allowed:
                # Often there is room again before the loop comes back here, and a socket no longer watched and watched
                # again costs several system calls: let go of it only when it was read in vain.
                if not number:
                    self._stop_reading()
                return
            try:
                size = sock.recv_into(buffer, allowed)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(error)
                return
            if not size:
                self._finish_reading_socket()
                return
            endpoint.send_bulk(stream, size)
            if size < allowed:
                if self._has_broken():
                    self._finish_reading_socket()
                return
        if self._has_broken():
            self._loop.call_soon(self._readable)

    def check_connection(self) -> None:
        """Out of credit the socket is not watched: see whether its other end is still there."""
        if not self._reading and not self._fin_sent and self._has_broken():
            self._finish_reading_socket()

    def _has_broken(self) -> bool:
        """Say whether the connection broke behind what was read.

        libuv, and so uvloop, tells of that once and watches the socket no more: who reads the last bytes then and waits
        for the next event waits for ever.
        """
        if self._socket is not None and not self._error:
            self._error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # tells once, too
        return bool(self._error)

    def _finish_reading_socket(self) -> None:
        self._stop_reading()
        if self._error:
            self._fail(OSError(self._error, os.strerror(self._error)))
        else:
            self._finish_reading()

    def _writable(self) -> None:
        held, sock = self._held, self._socket
        if sock is None:
            return
        taken = 0
        try:
            while held:
                size = sock.send(held)
                del held[:size]
                taken += size
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._fail(error)
            return
        if taken:
            self._endpoint.consume(self.stream, taken)
        if held and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)
        elif not held:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._fd)
            if self._fin_received:
                self._finish_writing()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    @property
    def _connected(self) -> bool:
        return self._socket is not None

    def _shutdown_writing(self) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    self._fail(error)

    def _close_connection(self, reset: bool) -> None:
        sock, self._socket = self._socket, None
        if sock is None:
            return
        self._stop_reading()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        if reset:
            reset_socket(sock)
        else:
            close_socket(sock)


class ProtocolBridge(Bridge, asyncio.BufferedProtocol):
    """The same over an asyncio transport: ``loop.create_connection(lambda: bridge, ...)``."""

    def __init__(self, endpoint: Endpoint, on_end: Callable[[], None] | None = None) -> None:
        super().__init__(endpoint, on_end)
        self._transport: asyncio.Transport | None = None
        self._read_buffer = memoryview(bytearray(READ_SIZE))
        self._ahead = b""  # read from the connection, not yet sent: one read at most
        self._eof_read = False
        self._full = False
        self._gone = False  # the connection has ended in good order
        self._unsent = 0  # bytes given to the transport while it was full; consumed when it has drained
        self._linger: asyncio.TimerHandle | None = None

    # -- asyncio's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._ended:
            self._close_connection(reset=True)
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            keep_alive(sock)
        self._write_held()

    def get_buffer(self, sizehint: int) -> memoryview:
        # TLS of asyncio and uvloop says how much waits, and loses what did not fit when the connection ends behind it.
        if sizehint >= len(self._read_buffer):
            self._read_buffer = memoryview(bytearray(sizehint + READ_SIZE))
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._ahead += self._read_buffer[:nbytes]
        if self._linger is not None:
            self._await_end()
        self._send_ahead()

    def eof_received(self) -> bool:
        self._eof_read = True
        self._send_ahead()
        return self._transport is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        unsent, self._unsent = self._unsent, 0
        if unsent:
            self._endpoint.consume(self.stream, unsent)
        if not self._ended:
            self._write_held()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        unsent, self._unsent = self._unsent, 0
        if unsent:  # nobody will take them any more; the session's credit for them goes back
            self._endpoint.consume(self.stream, unsent)
        if exc is not None or not self._eof_read or self._ended:
            self._fail(exc if isinstance(exc, OSError) else None)
            return
        # TLS ends both ways at once: what was read still goes as credit allows, what comes has nowhere to go.
        self._gone = self._fin_written = True
        if not self._ahead:
            self._finish_reading()

    # -- the stream's side --------------------------------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self._gone:
            self._endpoint.reset_stream(self.stream, ErrorCode.CANCELLED, "connection closed")
            self._end(reset=True)
        elif self._transport is None or self._full:
            self._held += data
        else:
            self._write(bytes(data))

    def resume_sending(self) -> None:
        self._send_ahead()

    def _send_ahead(self) -> None:
        """Send what was read, as far as the credit goes; read on when all of it is sent."""
        while self._ahead and not self._ended:
            allowed = self._endpoint.may_send(self.stream)
            if not allowed:
                if self._transport is not None:
                    self._transport.pause_reading()
                return
            self._endpoint.send_data(self.stream, self._ahead[:allowed])
            self._ahead = self._ahead[allowed:]
        if self._eof_read:
            if not self._fin_sent and not self._ended:
                self._finish_reading()
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._transport.write(data)
        if self._full:
            self._unsent += len(data)
        else:
            self._endpoint.consume(self.stream, len(data))

    def _write_held(self) -> None:
        held = bytes(self._held)
        self._held.clear()
        if held:
            self._write(held)
        if self._fin_received:
            self._finish_writing()

    @property
    def _connected(self) -> bool:
        return self._transport is not None

    def _shutdown_writing(self) -> None:
        if self._transport is None:
            return
        if self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError as error:  # the peer has reset the connection
                self._fail(error)
        else:
            self._await_end()

    def _await_end(self) -> None:
        """Wait for what the other end still says after our FIN, which TLS can't tell it; not for ever."""
        if self._linger is not None:
            self._linger.cancel()
        self._linger = asyncio.get_running_loop().call_later(HALF_CLOSE_TIMEOUT, self._fail, None)

    def _close_connection(self, reset: bool) -> None:
        if self._linger is not None:
            self._linger.cancel()
        if self._transport is None:
            return
        if reset:
            # abort() alone would end the connection in good order where nothing is left to send or read.
            raw = self._transport.get_extra_info("socket")
            if raw is not None:
                reset_on_close(raw)
            self._transport.abort()
        else:
            self._transport.close()
