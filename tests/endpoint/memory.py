"""Two endpoints joined in memory, with a path that is slow when the test says so, and handlers that write down what
they are told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tunnels.endpoint import Endpoint, StreamHandler, Timing
from tunnels.protocol import ErrorCode, Exposure, Hello, Limits, Role, Stream, Target
from tunnels.transport import MAX_MESSAGE, MessageTransport

HEADROOM = 14


class MemoryTransport(MessageTransport):
    """One end of a path in memory.

    It overwrites what it was given to send, as masking does, and what it has delivered, as a read buffer does.
    Messages wait until the test delivers them; with *high_water* bytes waiting the sender is paused.
    """

    headroom = HEADROOM
    kind = "memory"

    def __init__(self, endpoint: Endpoint, high_water: int) -> None:
        self.endpoint = endpoint
        self.high_water = high_water
        self.other: MemoryTransport
        self.queue: deque[bytes] = deque()
        self.unsent = 0
        self.paused = False
        self.closed: tuple[int, str] | None = None
        self.aborted = False
        self.lost = False
        self.on_send: Callable[[], None] | None = None
        self.on_delivery: Callable[[bytes], None] | None = None

    def send_message(self, buffer: bytearray) -> None:
        assert len(buffer) - HEADROOM <= MAX_MESSAGE
        if self.closed is None and not self.aborted:
            self.queue.append(bytes(buffer[HEADROOM:]))
            self.unsent += len(buffer) - HEADROOM
        buffer[:] = b"\xee" * len(buffer)
        if self.unsent > self.high_water:
            self.pause()
        if self.on_send is not None:
            self.on_send()

    def unsent_bytes(self) -> int:
        return self.unsent

    def close(self, code: int, reason: str) -> None:
        if self.closed is None and not self.aborted:
            self.closed = (code, reason)
            asyncio.get_running_loop().call_soon(self._finish, code, reason)

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.queue.clear()
            asyncio.get_running_loop().call_soon(self._finish, 1006, "the connection was cut")

    def _finish(self, code: int, reason: str) -> None:
        while self.queue:
            self.deliver()
        for transport in (self, self.other):
            if not transport.lost:
                transport.lost = True
                transport.endpoint.transport_lost(code, reason)

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            self.endpoint.sending_paused()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.endpoint.sending_resumed()

    def deliver(self) -> bool:
        """Carry one message to the other side; True if there was one."""
        if not self.queue:
            return False
        data = bytearray(self.queue.popleft())
        self.unsent -= len(data)
        if self.on_delivery is not None:
            self.on_delivery(bytes(data))
        if not self.other.lost:
            self.other.endpoint.message_received(memoryview(data))
            data[:] = b"\xdd" * len(data)
        if self.unsent <= self.high_water // 2 and not self.lost:
            self.resume()
        return True


class Recorder:
    """A stream's owner: sends a backlog as it may, holds or consumes what comes, and notes what it is told."""

    def __init__(self, endpoint: Endpoint, backlog: bytes = b"", *, consume: bool = True, bulk: bool = False) -> None:
        self.endpoint = endpoint
        self.stream: Stream
        self.backlog = backlog
        self.consume = consume
        self.bulk = bulk
        self.received = bytearray()
        self.held = 0
        self.told: list[object] = []
        self.looks = 0
        self.on_data: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None

    def stream_accepted(self) -> None:
        self.told.append("accepted")

    def stream_rejected(self, code: ErrorCode, reason: str) -> None:
        self.told.append(("rejected", code, reason))

    def stream_reset(self, code: ErrorCode, reason: str) -> None:
        self.told.append(("reset", code))

    def fin_received(self) -> None:
        self.told.append("fin")

    def data_received(self, data: memoryview) -> None:
        self.received += data
        self.held += len(data)
        if self.consume:
            self.consume_all()
        if self.on_data is not None:
            self.on_data()

    def consume_all(self) -> None:
        held, self.held = self.held, 0
        if held:
            self.endpoint.consume(self.stream, held)

    def session_draining(self) -> None: ...
    def check_connection(self) -> None:
        self.looks += 1

    def resume_sending(self) -> None:
        if self.on_resume is not None:
            self.on_resume()
        self.send()

    def send(self) -> None:
        """Send what may be sent, as a bridge does, and rely on being called back for the rest."""
        while self.backlog:
            allowed = self.endpoint.may_send(self.stream)
            if not allowed:
                return
            data, self.backlog = self.backlog[:allowed], self.backlog[allowed:]
            if self.bulk:
                self.endpoint.bulk_buffer()[: len(data)] = data
                self.endpoint.send_bulk(self.stream, len(data))
            else:
                self.endpoint.send_data(self.stream, data)


class Owner:
    """A session's owner, at either end."""

    def __init__(self) -> None:
        self.endpoint: Endpoint
        self.hello: Hello | None = None
        self.streams: list[Recorder] = []
        self.told: list[object] = []
        self.closed: asyncio.Future[tuple[ErrorCode, str]] = asyncio.get_running_loop().create_future()
        self.make_handler: Callable[[Stream], StreamHandler] = self.accept

    def accept(self, stream: Stream) -> Recorder:
        recorder = Recorder(self.endpoint)
        recorder.stream = stream
        self.streams.append(recorder)
        self.endpoint.accept_stream(stream)
        return recorder

    def session_opened(self, hello: Hello) -> None:
        self.hello = hello

    def stream_opened(self, stream: Stream) -> StreamHandler:
        return self.make_handler(stream)

    def probe_requested(self, probe_id: int, target: Target) -> None:
        self.told.append(("probe", probe_id, target))

    def exposure_changed(self, exposure: Exposure) -> None:
        self.told.append(exposure)

    def session_draining(self, code: ErrorCode, deadline: float, reason: str) -> None:
        self.told.append(("draining", code, deadline, reason))

    def session_closed(self, code: ErrorCode, reason: str) -> None:
        self.closed.set_result((code, reason))


class Line:
    """A gateway's and a client's endpoint, joined; nothing moves until the test lets it."""

    def __init__(
        self,
        *,
        gateway: Limits | None = None,
        client: Limits | None = None,
        timing: Timing | None = None,
        high_water: int = 128 * 1024,
    ) -> None:
        self.owners = (Owner(), Owner())
        self.gateway = Endpoint(Role.GATEWAY, Hello("gateway", limits=gateway or Limits()), self.owners[0], timing)
        self.client = Endpoint(Role.CLIENT, Hello("client", limits=client or Limits()), self.owners[1], timing)
        self.transports = (MemoryTransport(self.gateway, high_water), MemoryTransport(self.client, high_water))
        for number, endpoint in enumerate((self.gateway, self.client)):
            self.owners[number].endpoint = endpoint
            self.transports[number].other = self.transports[1 - number]
            endpoint.transport_ready(self.transports[number])

    def run_by_itself(self) -> None:
        """Let each message arrive in the next pass of the loop."""
        loop = asyncio.get_running_loop()
        for transport in self.transports:
            deliver = transport.deliver
            transport.on_send = lambda deliver=deliver: loop.call_soon(deliver)  # type: ignore[misc]
            for _ in transport.queue:
                loop.call_soon(deliver)

    def open(self, backlog: bytes = b"", *, consume: bool = True, bulk: bool = False) -> Recorder:
        """Open a stream whose owner has *backlog* to send, and let it send."""
        recorder = Recorder(self.gateway, backlog, consume=consume, bulk=bulk)
        recorder.stream = self.gateway.open_stream(Target(25060), "10.0.0.1:5000", recorder)
        recorder.send()
        return recorder

    async def settle(self) -> None:
        """Deliver until nothing moves any more."""
        quiet = 0
        while quiet < 3:
            await asyncio.sleep(0)
            moved = [transport.deliver() for transport in self.transports]
            quiet = 0 if any(moved) else quiet + 1


def check_books(line: Line) -> None:
    """No stream is left, and the session windows of both sides are whole; after :meth:`Line.settle`."""
    for here, there in ((line.gateway, line.client), (line.client, line.gateway)):
        assert here.session.streams == {}
        assert here.streams == 0
        assert len(here._ring) == 0
        window = here.session._receive_window
        assert window.unconsumed == 0
        assert there.session.send_window.credit + window._consumed == window.size
