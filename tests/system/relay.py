"""A way between client and gateway that can fail like a network: silently, by refusing, or not at all."""

from __future__ import annotations

import asyncio
import contextlib

from quickstart.ports import LOOPBACK


class Relay:
    """Pass TCP connections on to *target*, until told otherwise."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.connections = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def lead_to(self, target: int) -> None:
        """Pass new connections on to another *target*."""
        self._target = target

    def swallow(self) -> None:
        """Pass nothing on any more, not even an end: what a firewall does that has forgotten a connection."""
        self._passing.clear()

    async def refuse(self) -> None:
        """Take no new connections either; those that are there stay as they are."""
        assert self._server is not None
        self._server.close()
        self._server = None

    async def heal(self) -> None:
        """Pass new connections on again; the old ones stay lost."""
        self._passing = asyncio.Event()
        self._passing.set()
        if self._server is None:
            await self.start()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        passing = self._passing
        far: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, far = await asyncio.open_connection(LOOPBACK, self._target)
            await asyncio.gather(self._pass(reader, far, passing), self._pass(there, writer, passing))
        for end in (writer, far):
            if end is not None:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await passing.wait()
                writer.write(data)
                await writer.drain()
        await passing.wait()  # the end is no more passed on than bytes are
        writer.write_eof()
