"""Upstreams: what the client can reach, read from the forms that a person writes.

192.168.1.10:8080                          port 8080 of the tunnel goes there
2222=192.168.1.10:22                       port 2222 of the tunnel goes there
http://127.0.0.1:8080                      HTTP for every host name of the tunnel goes there
identity1.local=https://192.168.1.10:443   HTTP for this host name goes there, over TLS
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ..protocol import Exposure, Target

MAX_ROUTES: Final = 200  # all of them are told to the gateway in one frame (SPEC.md section 4.1)
ANY_HOST: Final = "*"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_SCHEME_PORTS: Final = {"http": 80, "https": 443}


class UpstreamError(ValueError):
    """An upstream that can't be understood; the message says what is wrong and shows the right form."""


@dataclass(frozen=True, slots=True)
class Route:
    """What of the tunnel an upstream serves: a TCP *port*, or an HTTP *host* name (ANY_HOST for all)."""

    port: int = 0
    host: str = ""

    def __str__(self) -> str:
        if self.port:
            return f"port {self.port}"
        return "any host" if self.host == ANY_HOST else f"host {self.host}"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A service on the customer's side: its address, and whether it is spoken to over TLS.

    *certificate_name* is the name its certificate must be for, and what is sent as SNI.
    """

    route: Route
    host: str
    port: int
    tls: bool = False
    certificate_name: str = ""

    @property
    def address(self) -> str:
        """The address as a person writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.address


class UpstreamTable:
    """Which upstreams serve which target of the tunnel; several of one route share its connections."""

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self.routes: dict[Route, list[Upstream]] = {}
        for upstream in upstreams:
            found = self.routes.setdefault(upstream.route, [])
            if upstream in found:
                raise UpstreamError(f"{upstream} is given twice for {upstream.route}: remove one of the two")
            found.append(upstream)
        if len(self.routes) > MAX_ROUTES:
            raise UpstreamError(
                f"{len(self.routes)} different ports and host names: a client serves {MAX_ROUTES} at most"
            )

    def find_route(self, target: Target) -> Route | None:
        """Return the route for *target*, or None where the client serves no such thing.

        A host name is looked for as it is, in any case of letters; then comes the upstream for any host.
        """
        if not target.host:
            route = Route(port=target.port)
            return route if route in self.routes else None
        for host in (target.host.lower().rstrip("."), ANY_HOST):
            if (route := Route(host=host)) in self.routes:
                return route
        return None

    @property
    def exposure(self) -> Exposure:
        """What the gateway is told: ports and names, no addresses."""
        return Exposure(
            tcp_ports=tuple(sorted(route.port for route in self.routes if route.port)),
            hosts=tuple(sorted(route.host for route in self.routes if route.host and route.host != ANY_HOST)),
            any_host=Route(host=ANY_HOST) in self.routes,
        )

    def missing_options(self, exposure: Exposure) -> list[tuple[str, str]]:
        """Return what the tunnel exposes and no upstream serves, each with the option that would serve it."""
        missing = [
            (f"port {port}", f"--upstream {port}=HOST:PORT")
            for port in exposure.tcp_ports
            if self.find_route(Target(port)) is None
        ]
        missing += [
            (f"host {host}", f"--upstream {host}=http://HOST:PORT")
            for host in exposure.hosts
            if self.find_route(Target(1, host)) is None
        ]
        return missing

    def unused_routes(self, exposure: Exposure) -> list[Route]:
        """Return the routes that the tunnel does not expose, so that nothing ever comes for them."""
        hosts = {host.lower() for host in exposure.hosts}
        return [
            route
            for route in self.routes
            if (route.port and route.port not in exposure.tcp_ports)
            or (route.host and route.host != ANY_HOST and route.host not in hosts)
        ]


def parse_upstream(text: str) -> Upstream:
    """Read one upstream. Raises UpstreamError."""
    text = text.strip()
    if not text:
        raise UpstreamError("it is empty: write for example 192.168.1.10:8080")
    if "@" in text:
        # Not repeated in the message: what stands before the sign may be a password.
        raise UpstreamError("an upstream has no user name or password: write for example http://192.168.1.10:8080")
    left, equals, right = (part.strip() for part in text.partition("="))
    if "://" in left:
        return _parse_http(text, ANY_HOST)
    if not equals:
        return _parse_tcp(text, None)
    return _parse_http(right, left) if "://" in right else _parse_tcp(right, left)


def _parse_tcp(address: str, left: str | None) -> Upstream:
    if "," in address or " " in address:
        raise UpstreamError(f"{address!r} holds more than one address: repeat --upstream for each")
    host, port = _split_address(address, left)
    tunnel_port = port
    if left is not None:
        if not left.isdecimal():
            raise UpstreamError(
                f"{left!r} is not a port, so this would be HTTP, which needs a scheme: write {left}=http://{address}"
            )
        tunnel_port = _parse_port(left, f"write for example 2222={address}")
    return Upstream(Route(port=tunnel_port), host, port)


def _split_address(address: str, left: str | None) -> tuple[str, int]:
    prefix = f"{left}=" if left is not None else ""
    host, colon, port = address.rpartition(":")
    if not colon or port.endswith("]") or (":" in host and not host.startswith("[")):
        if address.count(":") > 1:
            bare = address.strip("[]")
            raise UpstreamError(f"{address!r} has no port that can be told from the address: write {prefix}[{bare}]:22")
        if address.isdecimal():
            raise UpstreamError(f"{address!r} has no host: write {prefix}127.0.0.1:{address}")
        raise UpstreamError(f"{address!r} has no port: write for example {prefix}{address or '192.168.1.10'}:8080")
    if not host:
        raise UpstreamError(f"{address!r} has no host: write {prefix}127.0.0.1{address}")
    return _check_host(host), _parse_port(port, f"write for example {prefix}{host}:8080")


def _parse_http(url: str, left: str) -> Upstream:
    name = _check_host_name(left, url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UpstreamError(f"{url!r} has a port or an address that is none: write {_form(name)}") from None
    if parts.scheme not in _SCHEME_PORTS:
        raise UpstreamError(
            f"{parts.scheme}:// is not known: write {_form(name)}, or for plain TCP an address such as 192.168.1.10:22"
        )
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UpstreamError(f"{url!r} has a path, and paths are not changed on the way: write {_form(name)}")
    if not parts.hostname:
        raise UpstreamError(f"{url!r} has no host: write {_form(name)}")
    if port == 0:
        raise UpstreamError(f"{url!r} has port 0: write a port from 1 to 65535")
    host = _check_host(parts.hostname if ":" not in parts.hostname else f"[{parts.hostname}]")
    tls = parts.scheme == "https"
    certificate_name = "" if not tls else host if name == ANY_HOST else name
    return Upstream(Route(host=name), host, port or _SCHEME_PORTS[parts.scheme], tls, certificate_name)


def _form(name: str) -> str:
    return f"{'' if name == ANY_HOST else name + '='}http://192.168.1.10:8080"


def _check_host_name(name: str, url: str) -> str:
    """Return an HTTP host name in lower case; ANY_HOST stays as it is."""
    if name == ANY_HOST:
        return name
    if name.isdecimal():
        raise UpstreamError(
            f"a port takes an address, not a URL: write {name}={_bare(url)}, "
            f"or for HTTP a host name: identity1.local={url}"
        )
    lowered = name.lower().rstrip(".")
    if ":" in lowered or not lowered or len(lowered) > 253 or not all(map(_LABEL.fullmatch, lowered.split("."))):
        raise UpstreamError(f"{name!r} is not a host name: write for example identity1.local={url}")
    return lowered


def _bare(url: str) -> str:
    return url.partition("://")[2].partition("/")[0] or "192.168.1.10:8080"


def _check_host(host: str) -> str:
    """Return an address or a name to resolve, in lower case and without the brackets of IPv6."""
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1] if host.endswith("]") else ""))
        except ValueError:
            raise UpstreamError(f"{host!r} is not an IPv6 address: write for example [fd00::10]:22") from None
    lowered = host.lower().rstrip(".")
    numeric = all(label.isdecimal() for label in lowered.split("."))
    if numeric:
        try:
            return str(ipaddress.IPv4Address(lowered))
        except ValueError:
            raise UpstreamError(f"{host!r} is not an IPv4 address: write for example 192.168.1.10:8080") from None
    if len(lowered) > 253 or not all(map(_LABEL.fullmatch, lowered.split("."))):
        raise UpstreamError(f"{host!r} is neither an address nor a host name: write for example 192.168.1.10:8080")
    return lowered


def _parse_port(text: str, form: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 65536:
        raise UpstreamError(f"{text!r} is not a port, a number from 1 to 65535: {form}")
    return int(text)
