"""Where a client connects from, seen past the proxies in front of the gateway."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a comma-separated list, such as ``10.0.0.0/8, ::1``.

    Raises ValueError naming the part that is not an address or a network.
    """
    networks = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ip_network(part, strict=False))
        except ValueError:
            raise ValueError(f"{part!r} is not an IP address or a network such as 10.0.0.0/8") from None
    return tuple(networks)


def client_address(peer: str, headers: Iterable[tuple[bytes, bytes]], trusted: Sequence[Network]) -> str:
    """Return the address of whoever connects: the last in X-Forwarded-For that no trusted proxy of ours wrote.

    Arguments: *peer*, the address of the TCP connection; the request's *headers*, names in lower case; the networks
    whose X-Forwarded-For is *trusted*. Anybody can send the header, so without trust in the peer it means nothing.
    """
    if not _is_within(peer, trusted):
        return peer
    forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
    address = peer
    for hop in reversed([hop.strip() for hop in forwarded.split(",") if hop.strip()]):
        try:
            parsed = ip_address(hop.strip("[]"))
        except ValueError:
            break
        if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
            break  # RFC 4007 section 11: a zone means something on one machine only, and it may be any text
        address = str(parsed)
        if not _is_within(address, trusted):
            break
    return address


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
