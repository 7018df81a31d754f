"""Reach another gateway and ask it to take a connection."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from ...bridge import reset_socket
from ..directory import Holder
from .wire import GREETING_SIZE, Answer, HopInvalid, Request, pack_request, read_answer, read_greeting, receive_exactly

DIAL_TIMEOUT: Final = 3.0  # seconds for all of it; a pod that is gone answers nothing


class HopFailed(Exception):
    """The other gateway did not take the connection: its *answer*, None where it gave none."""

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.answer = answer


async def dial(holder: Holder, request: Request, secret: bytes) -> socket.socket:
    """Return the socket by which *holder* has taken the connection; its bytes may follow. Raises HopFailed."""
    family = socket.AF_INET6 if ":" in holder.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            answer, reason = await _ask(sock, holder, request, secret)
    except TimeoutError:
        reset_socket(sock)
        raise HopFailed(f"{holder.gateway} does not answer at {holder.address}:{holder.hop_port}") from None
    except (OSError, HopInvalid) as error:
        reset_socket(sock)
        reason = getattr(error, "strerror", None) or str(error)
        raise HopFailed(f"{holder.gateway} at {holder.address}:{holder.hop_port}: {reason}") from None
    except BaseException:
        reset_socket(sock)
        raise
    if answer is not Answer.TAKEN:
        sock.close()
        raise HopFailed(f"{holder.gateway} did not take it: {reason or answer.name}", answer)
    return sock


async def _ask(sock: socket.socket, holder: Holder, request: Request, secret: bytes) -> tuple[Answer, str]:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (holder.address, holder.hop_port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    nonce = read_greeting(await receive_exactly(sock, GREETING_SIZE))
    header = request.pack(holder.gateway)
    await loop.sock_sendall(sock, pack_request(secret, nonce, header))
    return await read_answer(sock, secret, nonce, header)
