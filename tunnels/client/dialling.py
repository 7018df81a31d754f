"""Dialling: from the name of an upstream to a connected socket, and over TLS where it wants that."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..protocol import ErrorCode
from .upstreams import Upstream

STAGGER: Final = 0.25  # seconds before the next address is tried beside the last one (RFC 8305 section 5)
MAX_DIALS: Final = 128  # dials of one upstream at a time; further ones wait for their turn

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


class DialFailed(Exception):
    """An upstream was not reached; *code* and *reason* go to the gateway, *advice* into the client's log."""

    def __init__(self, code: ErrorCode, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.advice = advice


@dataclass(frozen=True, slots=True)
class DialPolicy:
    """How upstreams are dialled: the *timeout* for each in seconds, and the *tls* context for https upstreams
    (None where there are none)."""

    timeout: float
    tls: ssl.SSLContext | None


def make_upstream_context(ca_file: Path | None, insecure: bool) -> ssl.SSLContext:
    """Return the TLS context for https upstreams: certificates are checked unless *insecure*.

    With *ca_file* only the CAs in it are trusted, else those of the system. Raises OSError, ssl.SSLError.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Dialler:
    """Dial upstreams, a bounded number of times at once each.

    Looking up one name is shared by all that wait for it: resolvers work in a few threads, and a name whose server
    does not answer must not take them all.
    """

    def __init__(self, policy: DialPolicy) -> None:
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._turns: dict[Upstream, asyncio.Semaphore] = {}
        self._lookups: dict[tuple[str, int], asyncio.Future[list[Address]]] = {}

    async def connect(self, upstream: Upstream) -> socket.socket:
        """Return a connected, non-blocking socket. Raises DialFailed."""
        turns = self._turns.setdefault(upstream, asyncio.Semaphore(MAX_DIALS))
        timeout = self._policy.timeout
        try:
            async with asyncio.timeout(timeout), turns:
                addresses = await self._resolve(upstream.host, upstream.port)
                return await self._connect_first(addresses)
        except TimeoutError:
            advice = "check the address, that the service is running, and firewalls on the way"
            raise DialFailed(ErrorCode.UPSTREAM_TIMEOUT, f"no answer within {timeout:g} s", advice) from None
        except (socket.gaierror, UnicodeError) as error:
            advice = "check the name in --upstream and this machine's DNS"
            reason = "its name does not resolve"
            raise DialFailed(ErrorCode.UPSTREAM_NAME, reason, advice) from error
        except OSError as error:
            raise explain_socket_error(error) from error

    async def start_tls(
        self, upstream: Upstream, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]
    ) -> asyncio.BaseTransport:
        """Make *sock* a TLS connection of the protocol that *factory* makes. Raises DialFailed; *sock* is gone then."""
        timeout = self._policy.timeout
        try:
            async with asyncio.timeout(timeout):
                transport, _ = await self._loop.create_connection(
                    factory, sock=sock, ssl=self._policy.tls, server_hostname=upstream.certificate_name
                )
                return transport
        except TimeoutError:
            advice = "check that the service speaks TLS on this port; for plain HTTP write http:// in --upstream"
            raise DialFailed(ErrorCode.UPSTREAM_TLS, f"no TLS handshake within {timeout:g} s", advice) from None
        except ssl.SSLCertVerificationError as error:
            what = getattr(error, "verify_message", "") or str(error)
            advice = (
                f"it must be for {upstream.certificate_name} and of a CA that is trusted here; give a private CA with "
                "--upstream-ca-file, or go without the check with --upstream-insecure"
            )
            raise DialFailed(ErrorCode.UPSTREAM_TLS, f"its certificate is not accepted: {what}", advice) from error
        except (OSError, ValueError) as error:
            advice = "check that the service speaks TLS on this port; for plain HTTP write http:// in --upstream"
            what = getattr(error, "reason", "") or getattr(error, "strerror", "") or "the connection was closed"
            raise DialFailed(ErrorCode.UPSTREAM_TLS, f"TLS failed: {what}", advice) from error

    async def attach(self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Give *sock* to the protocol that *factory* makes, on a loop that can't watch sockets by itself."""
        try:
            await self._loop.create_connection(factory, sock=sock)
        except OSError as error:
            raise explain_socket_error(error) from error

    async def _resolve(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of *host*, in the order the system prefers."""
        literal = _read_address(host, port)
        if literal is not None:
            return [literal]
        key = (host, port)
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = asyncio.ensure_future(self._look_up(host, port))
            self._lookups[key] = lookup
            lookup.add_done_callback(lambda done: self._forget_lookup(key, done))
        return await asyncio.shield(lookup)

    async def _look_up(self, host: str, port: int) -> list[Address]:
        return list(await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    def _forget_lookup(self, key: tuple[str, int], lookup: asyncio.Future[list[Address]]) -> None:
        del self._lookups[key]
        if not lookup.cancelled():
            lookup.exception()  # those who waited have it, or have given up

    async def _connect_first(self, addresses: Sequence[Address]) -> socket.socket:
        """Connect to the first address that answers; the next one starts after STAGGER, or when the last one failed."""
        if len(addresses) == 1:
            return await self._connect_to(addresses[0])
        waiting = list(addresses)
        running: set[asyncio.Task[socket.socket]] = set()
        error: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no addresses")
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.ensure_future(self._connect_to(waiting.pop(0))))
                done, running = await asyncio.wait(
                    running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    failure = task.exception()
                    if failure is None:
                        running |= done - {task}
                        return task.result()
                    if not isinstance(failure, OSError):
                        raise failure
                    error = failure
            raise error
        finally:
            for task in running:
                task.add_done_callback(_close_late_socket)
                task.cancel()

    async def _connect_to(self, address: Address) -> socket.socket:
        family, kind, protocol, _, where = address
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await self._loop.sock_connect(sock, where)
        except BaseException:
            sock.close()
            raise
        return sock


def explain_socket_error(error: OSError) -> DialFailed:
    """Return what the failure of a TCP connection means."""
    number = error.errno
    if isinstance(error, ConnectionRefusedError):
        advice = "check that the service is running and listens on this address and port"
        return DialFailed(ErrorCode.UPSTREAM_REFUSED, "the connection was refused", advice)
    if number in (errno.EMFILE, errno.ENFILE):
        advice = "raise the limit of open files for this process (ulimit -n, LimitNOFILE)"
        return DialFailed(ErrorCode.LIMIT, "the client has no free file descriptors", advice)
    if isinstance(error, TimeoutError):
        advice = "check the address, that the service is running, and firewalls on the way"
        return DialFailed(ErrorCode.UPSTREAM_TIMEOUT, "no answer in time", advice)
    what = error.strerror or type(error).__name__
    advice = "check the address, routes and firewalls on the way"
    return DialFailed(ErrorCode.UPSTREAM_UNREACHABLE, f"not reachable: {what}", advice)


@functools.lru_cache(maxsize=1024)
def _read_address(host: str, port: int) -> Address | None:
    """Return the address that *host* spells out, or None where it is a name."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
    except socket.gaierror:
        return None


def loop_watches_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    """Say whether *loop* has ``add_reader``; the Proactor loop of Windows has not."""
    left, right = socket.socketpair()
    with left, right:
        try:
            loop.add_reader(left, lambda: None)
        except NotImplementedError:
            return False
        loop.remove_reader(left)
    return True


def _close_late_socket(task: asyncio.Task[socket.socket]) -> None:
    """Close the connection of an attempt that was not needed any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
