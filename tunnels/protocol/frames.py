"""Frames: the bytes of the wire protocol, both ways (SPEC.md sections 3 and 4).

Encoding and decoding only. Which frame may come when is the business of :mod:`tunnels.protocol.session`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Final

from .errors import ErrorCode, ProtocolError

HEADER: Final = struct.Struct(">II")  # type in the top byte, payload length in the lower three; stream id
HEADER_SIZE: Final = 8
MAX_DATA: Final = 65536  # "A frame carries at most 65,536 bytes of payload."
MAX_MESSAGE: Final = 262_144  # "A message is at most 262,144 bytes."
MAX_EXPOSED: Final = 200  # "At most 200 ports and 200 host names are told."
MAX_REASON: Final = 512  # bytes of UTF-8 text beside a code
MAX_STREAM_ID: Final = 0x7FFF_FFFF
MAX_WINDOW: Final = 0x7FFF_FFFF


class FrameType(IntEnum):
    """The first byte of a frame (section 3)."""

    HELLO = 0
    OPEN = 1
    ACCEPT = 2
    REJECT = 3
    DATA = 4
    WINDOW = 5
    FIN = 6
    RESET = 7
    PING = 8
    PONG = 9
    PROBE = 10
    REPORT = 11
    UPDATE = 12
    GOAWAY = 13


# Plain integers of the types: a comparison with an IntEnum member costs a look-up in the hot loop.
HELLO, OPEN, ACCEPT, REJECT, DATA, WINDOW, FIN, RESET, PING, PONG, PROBE, REPORT, UPDATE, GOAWAY = map(int, FrameType)

_CODE = struct.Struct(">H")
_CREDIT = struct.Struct(">I")
_GOAWAY = struct.Struct(">HI")
_PROBE = struct.Struct(">I")
_REPORT = struct.Struct(">IHI")
_TARGET = struct.Struct(">HB")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a stream goes: a TCP port of the tunnel, or (with *host*) an HTTP host name of it (section 4.2)."""

    port: int
    host: str = ""

    def __str__(self) -> str:
        return self.host or f"port {self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one side is ready to hold, told to the other in HELLO (section 4.1); sizes in bytes."""

    stream_window: int = 256 * 1024
    session_window: int = 64 * 1024 * 1024
    max_streams: int = 4096


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a tunnel exposes, as the gateway says it, or what a client can reach, as the client says it.

    *any_host* is true on a client that takes every HTTP host name.
    """

    customer: str = ""
    tunnel: str = ""
    tcp_ports: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()
    any_host: bool = False


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of each side (section 4.1)."""

    agent: str = ""
    instance: str = ""
    limits: Limits = field(default_factory=Limits)
    exposure: Exposure = field(default_factory=Exposure)


# -- encoding ---------------------------------------------------------------------------------------------------------


def pack_frame(frame_type: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a whole frame (section 3)."""
    return HEADER.pack(frame_type << 24 | len(payload), stream_id) + payload


def pack_header(frame_type: int, length: int, stream_id: int) -> bytes:
    """Return the 8 bytes that go in front of *length* bytes of payload (section 3)."""
    return HEADER.pack(frame_type << 24 | length, stream_id)


def pack_reason(code: ErrorCode, reason: str) -> bytes:
    """Return the payload of REJECT and RESET: a code and a text for people (section 4.4)."""
    return _CODE.pack(code) + _cut(reason)


def pack_goaway(code: ErrorCode, deadline_ms: int, reason: str) -> bytes:
    """Return the payload of GOAWAY; *deadline_ms* is how long open streams may still take (section 4.9)."""
    return _GOAWAY.pack(code, min(deadline_ms, 0xFFFF_FFFF)) + _cut(reason)


def pack_credit(increment: int) -> bytes:
    """Return the payload of WINDOW (section 4.6)."""
    return _CREDIT.pack(increment)


def pack_target(target: Target) -> bytes:
    """Return the target of OPEN and PROBE (section 4.2). Raises ValueError where it has no place in the frame."""
    host = target.host.encode("ascii")
    if not 0 < target.port < 65536 or len(host) > 255 or not target.host.isprintable():
        raise ValueError(f"no stream can go to {target!r}")
    return _TARGET.pack(target.port, len(host)) + host


def pack_open(target: Target, source: str) -> bytes:
    """Return the payload of OPEN: target, then the address of the in-cluster peer as text (section 4.2)."""
    return pack_target(target) + source.encode("ascii", "replace")[:255]


def pack_probe(probe_id: int, target: Target) -> bytes:
    """Return the payload of PROBE (section 4.8)."""
    return _PROBE.pack(probe_id) + pack_target(target)


def pack_report(probe_id: int, code: ErrorCode, elapsed_us: int, reason: str) -> bytes:
    """Return the payload of REPORT; *elapsed_us* is how long the dial took (section 4.8)."""
    return _REPORT.pack(probe_id, code, min(elapsed_us, 0xFFFF_FFFF)) + _cut(reason)


def pack_hello(hello: Hello) -> bytes:
    """Return the payload of HELLO as JSON (section 4.1)."""
    document = {
        "versions": ["v1"],
        "agent": hello.agent,
        "instance": hello.instance,
        "limits": asdict(hello.limits),
        "exposes": asdict(hello.exposure),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def pack_exposure(exposure: Exposure) -> bytes:
    """Return the payload of UPDATE as JSON (section 4.7)."""
    return json.dumps({"exposes": asdict(exposure)}, separators=(",", ":")).encode()


def _cut(reason: str) -> bytes:
    """Encode *reason*, at most MAX_REASON bytes, never in the middle of a character."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore").encode()


# -- decoding ---------------------------------------------------------------------------------------------------------
# Each takes the payload of one frame and raises ProtocolError where the bytes do not fit the layout.


def unpack_reason(payload: memoryview) -> tuple[ErrorCode, str]:
    if len(payload) < 2:
        raise ProtocolError(ErrorCode.PROTOCOL, "a frame with a code is shorter than the code")
    return ErrorCode.from_wire(_CODE.unpack_from(payload)[0]), _text(payload[2:])


def unpack_goaway(payload: memoryview) -> tuple[ErrorCode, int, str]:
    if len(payload) < _GOAWAY.size:
        raise ProtocolError(ErrorCode.PROTOCOL, f"GOAWAY of {len(payload)} bytes, at least {_GOAWAY.size} expected")
    code, deadline_ms = _GOAWAY.unpack_from(payload)
    return ErrorCode.from_wire(code), deadline_ms, _text(payload[_GOAWAY.size :])


def unpack_credit(payload: memoryview) -> int:
    # "WINDOW has exactly four bytes, a credit of 1 to 2^31-1."
    if len(payload) != 4:
        raise ProtocolError(ErrorCode.PROTOCOL, f"WINDOW of {len(payload)} bytes, 4 expected")
    credit: int = _CREDIT.unpack(payload)[0]
    if not 0 < credit <= MAX_WINDOW:
        raise ProtocolError(ErrorCode.PROTOCOL, f"WINDOW with a credit of {credit}")
    return credit


def unpack_target(payload: memoryview) -> tuple[Target, memoryview]:
    """Return the target at the start of *payload*, and what follows it."""
    if len(payload) < _TARGET.size:
        raise ProtocolError(ErrorCode.PROTOCOL, "a target is shorter than its header")
    port, host_length = _TARGET.unpack_from(payload)
    end = _TARGET.size + host_length
    if port == 0 or end > len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL, "a target with port 0 or a host name cut short")
    return Target(port, _ascii(payload[_TARGET.size : end])), payload[end:]


def unpack_open(payload: memoryview) -> tuple[Target, str]:
    target, rest = unpack_target(payload)
    if len(rest) > 255:
        raise ProtocolError(ErrorCode.PROTOCOL, "OPEN with a source address longer than 255 bytes")
    return target, _ascii(rest)


def unpack_probe(payload: memoryview) -> tuple[int, Target]:
    if len(payload) < _PROBE.size:
        raise ProtocolError(ErrorCode.PROTOCOL, "PROBE is shorter than its id")
    target, rest = unpack_target(payload[_PROBE.size :])
    if rest:
        raise ProtocolError(ErrorCode.PROTOCOL, "PROBE with bytes after its target")
    return _PROBE.unpack_from(payload)[0], target


def unpack_report(payload: memoryview) -> tuple[int, ErrorCode, int, str]:
    if len(payload) < _REPORT.size:
        raise ProtocolError(ErrorCode.PROTOCOL, "REPORT is shorter than its fixed part")
    probe_id, code, elapsed_us = _REPORT.unpack_from(payload)
    return probe_id, ErrorCode.from_wire(code), elapsed_us, _text(payload[_REPORT.size :])


def unpack_hello(payload: memoryview) -> Hello:
    document = _document(payload, "HELLO")
    versions = document.get("versions")
    if not isinstance(versions, list) or "v1" not in versions:
        raise ProtocolError(ErrorCode.VERSION, f"the peer speaks {str(versions)[:80]}, this side speaks v1")
    limits = _section(document, "limits")
    return Hello(
        agent=_string(document.get("agent", ""), 200),
        instance=_string(document.get("instance", ""), 100),
        limits=Limits(
            stream_window=_integer(limits, "stream_window", 1024, MAX_WINDOW),
            session_window=_integer(limits, "session_window", 1024, MAX_WINDOW),
            max_streams=_integer(limits, "max_streams", 1, 1_000_000),
        ),
        exposure=_exposure(document),
    )


def unpack_exposure(payload: memoryview) -> Exposure:
    return _exposure(_document(payload, "UPDATE"))


def _exposure(document: dict[str, Any]) -> Exposure:
    exposes = _section(document, "exposes")
    ports, hosts = exposes.get("tcp_ports", []), exposes.get("hosts", [])
    if not isinstance(ports, list) or not all(type(port) is int and 0 < port < 65536 for port in ports):
        raise ProtocolError(ErrorCode.HELLO, "exposes.tcp_ports is not a list of ports")
    if not isinstance(hosts, list):
        raise ProtocolError(ErrorCode.HELLO, "exposes.hosts is not a list of names")
    if len(ports) > MAX_EXPOSED or len(hosts) > MAX_EXPOSED:
        raise ProtocolError(ErrorCode.HELLO, f"more than {MAX_EXPOSED} ports or host names")
    return Exposure(
        customer=_string(exposes.get("customer", ""), 63),
        tunnel=_string(exposes.get("tunnel", ""), 63),
        tcp_ports=tuple(ports),
        hosts=tuple(_string(host, 255) for host in hosts),
        any_host=exposes.get("any_host", False) is True,
    )


def _document(payload: memoryview, name: str) -> dict[str, Any]:
    try:
        document = json.loads(str(payload, "utf-8"))
    except (ValueError, RecursionError):
        raise ProtocolError(ErrorCode.HELLO, f"{name} is not JSON") from None
    if not isinstance(document, dict):
        raise ProtocolError(ErrorCode.HELLO, f"{name} is not a JSON object")
    return document


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    section = document.get(name, {})
    if not isinstance(section, dict):
        raise ProtocolError(ErrorCode.HELLO, f"{name} is not a JSON object")
    return section


def _integer(section: dict[str, Any], name: str, least: int, most: int) -> int:
    value = section.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ProtocolError(ErrorCode.HELLO, f"limits.{name} is not a number from {least} to {most}")
    return value


def _string(value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ProtocolError(ErrorCode.HELLO, f"a text is missing, longer than {most} characters or not printable")
    return value


def _ascii(raw: memoryview) -> str:
    try:
        text = str(raw, "ascii")
    except UnicodeDecodeError:
        raise ProtocolError(ErrorCode.PROTOCOL, "a name or address is not ASCII") from None
    if not text.isprintable():
        raise ProtocolError(ErrorCode.PROTOCOL, "a name or address holds control characters")
    return text


def _text(raw: memoryview) -> str:
    """Decode a reason for people: what is not printable is replaced, so that a log stays one line."""
    if len(raw) > MAX_REASON:
        raise ProtocolError(ErrorCode.PROTOCOL, f"a reason longer than {MAX_REASON} bytes")
    text = str(raw, "utf-8", "replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
