"""What two gateways say to each other before the bytes of a connection pass: docs/gateways.md describes it.

    accepting -> dialling   greeting   magic (8), nonce (32)
    dialling -> accepting   request    length of the header (2), header (JSON), MAC (32)
    accepting -> dialling   answer     code (1), length of the reason (1), reason, MAC (32)

Each MAC is an HMAC-SHA256 under the installation's secret over a label, the accepting side's nonce and the header,
which names the gateway that is meant and holds a nonce of the dialling side; that of the answer goes over code and
reason as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import socket
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address
from typing import Final

from ...protocol import Target

MAGIC: Final = b"MOORHOP1"
NONCE_SIZE: Final = 32
MAC_SIZE: Final = 32
GREETING_SIZE: Final = len(MAGIC) + NONCE_SIZE
MAX_HEADER: Final = 1024  # bytes
MAX_REASON: Final = 255  # bytes
_REQUEST_LABEL: Final = b"moorline hop request\0"
_ANSWER_LABEL: Final = b"moorline hop answer\0"


class HopInvalid(Exception):
    """What the other end said is not the hop's protocol, or it does not know the secret."""


class Answer(IntEnum):
    """What becomes of a connection that was passed on."""

    TAKEN = 0
    NO_SESSION = 1  # there is no session of the tunnel here
    DRAINING = 2  # this gateway is stopping: its sessions are moving to others
    LIMIT = 3  # there are too many streams or connections
    UNKNOWN = 4  # the tunnel has no such port here
    MISTAKEN = 5  # another gateway was asked than the one that heard it


@dataclass(frozen=True, slots=True)
class Request:
    """A connection that wants to be taken: its tunnel, its *target*, the application's *source* as ``ip:port``."""

    tunnel_id: str
    target: Target
    source: str
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))

    def pack(self, gateway: str) -> bytes:
        """Return the header for the *gateway* of that name. Raises HopInvalid where it is longer than MAX_HEADER."""
        fields = {
            "gateway": gateway,
            "tunnel": self.tunnel_id,
            "port": self.target.port,
            "host": self.target.host,
            "source": self.source,
            "nonce": self.nonce,
        }
        header = json.dumps(fields, separators=(",", ":")).encode()
        if len(header) > MAX_HEADER:
            raise HopInvalid("the header is too long")
        return header

    @classmethod
    def unpack(cls, header: bytes) -> tuple[Request, str]:
        """Read a header whose MAC was right, and return the name of the gateway it is for. Raises HopInvalid."""
        try:
            document = json.loads(header)
            port, source = int(document["port"]), str(document["source"])
            target = Target(port, str(document["host"]))
            address, _, source_port = source.rpartition(":")
            ip_address(address.strip("[]"))
            in_range = 0 < port < 65536 and source_port.isdecimal()
            request = cls(str(document["tunnel"]), target, source, str(document["nonce"]))
            gateway = str(document["gateway"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise HopInvalid(f"its header can't be read ({type(error).__name__})") from None
        if not in_range:
            raise HopInvalid("its header holds a port that is none")
        return request, gateway


def make_greeting() -> tuple[bytes, bytes]:
    """Return the first bytes of the accepting side, and the nonce in them."""
    nonce = secrets.token_bytes(NONCE_SIZE)
    return MAGIC + nonce, nonce


def read_greeting(greeting: bytes) -> bytes:
    """Return the nonce of a greeting. Raises HopInvalid."""
    if not greeting.startswith(MAGIC):
        raise HopInvalid("what answers there is no gateway")
    return greeting[len(MAGIC) :]


def pack_request(secret: bytes, nonce: bytes, header: bytes) -> bytes:
    return len(header).to_bytes(2, "big") + header + _request_mac(secret, nonce, header)


def check_request(secret: bytes, nonce: bytes, header: bytes, mac: bytes) -> None:
    """Raise HopInvalid where the dialling side does not know the secret, or repeats what it heard."""
    if not hmac.compare_digest(mac, _request_mac(secret, nonce, header)):
        raise HopInvalid("it does not know the secret of this installation (MOORLINE_HOP_SECRET)")


def pack_answer(secret: bytes, nonce: bytes, header: bytes, answer: Answer, reason: str = "") -> bytes:
    text = reason.encode("ascii", "replace")[:MAX_REASON]
    body = bytes((answer, len(text))) + text
    return body + _answer_mac(secret, nonce, header, body)


async def read_answer(sock: socket.socket, secret: bytes, nonce: bytes, header: bytes) -> tuple[Answer, str]:
    """Read the answer to *header*. Raises HopInvalid, OSError."""
    body = await receive_exactly(sock, 2)
    body += await receive_exactly(sock, body[1])
    if not hmac.compare_digest(await receive_exactly(sock, MAC_SIZE), _answer_mac(secret, nonce, header, body)):
        raise HopInvalid("it does not know the secret of this installation (MOORLINE_HOP_SECRET)")
    try:
        return Answer(body[0]), body[2:].decode("ascii", "replace")
    except ValueError:
        raise HopInvalid(f"its answer {body[0]} is not known") from None


async def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Read *size* bytes and not one more: what follows belongs to the connection. Raises ConnectionResetError."""
    received = bytearray()
    loop = asyncio.get_running_loop()
    while len(received) < size:
        data = await loop.sock_recv(sock, size - len(received))
        if not data:
            raise ConnectionResetError("closed in the middle of the handshake")
        received += data
    return bytes(received)


def _request_mac(secret: bytes, nonce: bytes, header: bytes) -> bytes:
    return hmac.digest(secret, _REQUEST_LABEL + nonce + header, hashlib.sha256)


def _answer_mac(secret: bytes, nonce: bytes, header: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, _ANSWER_LABEL + nonce + header + body, hashlib.sha256)
