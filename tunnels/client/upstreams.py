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
_EXAMPLE: Final = "192.168.1.10:8080"
_HTTP_EXAMPLE: Final = "http://192.168.1.10:8080"
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
    """Which upstreams serve which target of the tunnel; several of one route share its connections.

    *customer* is whose tunnel it is: applications may name it behind a host name (:func:`service_name`).
    """

    def __init__(self, upstreams: Iterable[Upstream], customer: str = "") -> None:
        self.routes: dict[Route, list[Upstream]] = {}
        self._customer = customer
        for upstream in upstreams:
            found = self.routes.setdefault(upstream.route, [])
            if upstream in found:
                raise UpstreamError(f"{upstream} is given twice for {upstream.route}: remove one of the two")
            found.append(upstream)
        if len(self.routes) > MAX_ROUTES:
            raise UpstreamError(
                f"{len(self.routes)} different ports and host names: a client serves {MAX_ROUTES} at most"
            )
        named = [route for route in self.routes if route.host not in ("", ANY_HOST)]
        self._services: dict[str, Route] = {}
        for route in sorted(named, key=lambda route: "." in route.host):  # web-local before web.local
            self._services.setdefault(service_name(route.host, customer), route)

    def find_route(self, target: Target) -> Route | None:
        """Return the route for *target*, or None where the client serves no such thing.

        A host name is looked for as it is, in any case of letters; then as the Service that both are reached by in the
        provider's cluster; then comes the upstream for any host.
        """
        if not target.host:
            route = Route(port=target.port)
            return route if route in self.routes else None
        host = target.host.lower().rstrip(".")
        exact, any_host = Route(host=host), Route(host=ANY_HOST)
        if exact in self.routes:
            return exact
        found = self._services.get(service_name(host, self._customer))
        return found or (any_host if any_host in self.routes else None)

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
        services = {service_name(host, self._customer) for host in exposure.hosts}
        return [
            route
            for route in self.routes
            if (route.port and route.port not in exposure.tcp_ports)
            or (route.host not in ("", ANY_HOST) and service_name(route.host, self._customer) not in services)
        ]


def service_name(host: str, customer: str) -> str:
    """Return the name of the Service that stands for *host* in the customer's namespace: dots become hyphens.

    Applications write it alone, or with the namespace: ``web``, ``web.acmeco``, ``web.acmeco.svc.cluster.local``.
    """
    labels = host.lower().rstrip(".").split(".")
    if len(labels) > 1 and labels[1] == customer and labels[2:3] in ([], ["svc"]):
        labels = labels[:1]
    return "-".join(labels)


def parse_upstream(text: str) -> Upstream:
    """Read one upstream. Raises UpstreamError."""
    try:
        return _parse(text.strip())
    except _Mistake as mistake:
        form = next(filter(_is_understood, mistake.forms), _EXAMPLE)
        raise UpstreamError(f"{mistake}: write for example {form}") from None


class _Mistake(ValueError):
    """What is wrong, and *forms* that may be meant, the likeliest first; the first that can be read is offered."""

    def __init__(self, what: str, *forms: str) -> None:
        super().__init__(what)
        self.forms = forms


def _is_understood(text: str) -> bool:
    try:
        _parse(text)
    except _Mistake:
        return False
    return True


def _parse(text: str) -> Upstream:
    if not text:
        raise _Mistake("it is empty")
    if "@" in text:
        # Not repeated in the message: what stands before the sign may be a password.
        raise _Mistake("an upstream has no user name or password", _HTTP_EXAMPLE)
    left, equals, right = (part.strip() for part in text.partition("="))
    if "://" in left:
        return _parse_http(text, ANY_HOST)
    if not equals:
        return _parse_tcp(text, None)
    if not left:
        raise _Mistake(f"{text!r} has nothing before the =", right)
    if not right:
        raise _Mistake(f"{text!r} has nothing after the =", f"{left}={_EXAMPLE}", f"{left}={_HTTP_EXAMPLE}")
    return _parse_http(right, left) if "://" in right else _parse_tcp(right, left)


def _parse_tcp(address: str, left: str | None) -> Upstream:
    if "," in address or " " in address:
        raise _Mistake(f"{address!r} holds more than one address: repeat --upstream for each")
    if left is not None and not _is_number(left):
        what = f"{left!r} is not a port, so this would be HTTP, which needs a scheme"
        raise _Mistake(what, f"{left}=http://{address}", f"{left}={_HTTP_EXAMPLE}", f"identity1.local={_HTTP_EXAMPLE}")
    prefix = f"{left}=" if left is not None else ""
    host, port = _split_address(address, prefix)
    tunnel_port = port if left is None else _parse_port(left, f"2222={address}")
    return Upstream(Route(port=tunnel_port), host, port)


def _split_address(address: str, prefix: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or port.endswith("]") or (":" in host and not host.startswith("[")):
        if address.count(":") > 1:
            first, _, rest = address.partition(":")
            what = f"{address!r} has no port that can be told from the address"
            # An IPv6 address and a port, one without a port, what other programs write for 2222=HOST:22, too much.
            forms = (f"[{host}]:{port}", f"[{address.strip('[]')}]:22")
            shorter = ":".join(address.split(":")[:2])
            raise _Mistake(what, *(prefix + form for form in forms), f"{first}={rest}", prefix + shorter)
        if address.isdecimal():
            raise _Mistake(f"{address!r} has no host", f"{prefix}127.0.0.1:{address}", prefix + _EXAMPLE)
        raise _Mistake(f"{address!r} has no port", f"{prefix}{address}:8080", prefix + _EXAMPLE)
    if not host:
        raise _Mistake(f"{address!r} has no host", f"{prefix}127.0.0.1{address}", prefix + _EXAMPLE)
    return _check_host(host), _parse_port(port, f"{prefix}{host}:8080")


def _parse_http(url: str, left: str) -> Upstream:
    name = _check_host_name(left, url)
    prefix = "" if name == ANY_HOST else f"{name}="
    example = prefix + _HTTP_EXAMPLE
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _Mistake(f"{url!r} has a port or an address that is none", example) from None
    if parts.scheme not in _SCHEME_PORTS:
        what = f"{parts.scheme or url.partition('://')[0]}:// is not known, and plain TCP has no scheme"
        raise _Mistake(what, *([parts.netloc] if name == ANY_HOST else []), example)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        part = "path" if parts.path not in ("", "/") else "query" if parts.query else "fragment"
        what = f"{url!r} has a {part}, and what a request asks for is not changed on the way"
        raise _Mistake(what, f"{prefix}{parts.scheme}://{parts.netloc}", example)
    if not parts.hostname:
        raise _Mistake(f"{url!r} has no host", example)
    if port == 0:
        raise _Mistake(f"{url!r} has port 0, and ports go from 1 to 65535", example)
    host = _check_host(parts.hostname if ":" not in parts.hostname else f"[{parts.hostname}]", example)
    tls = parts.scheme == "https"
    certificate_name = "" if not tls else host if name == ANY_HOST else name
    return Upstream(Route(host=name), host, port or _SCHEME_PORTS[parts.scheme], tls, certificate_name)


def _check_host_name(name: str, url: str) -> str:
    """Return an HTTP host name in lower case; ANY_HOST stays as it is."""
    if name == ANY_HOST:
        return name
    if name.isdecimal():
        what = "a port takes an address and not a URL, which goes with a host name"
        raise _Mistake(what, f"{name}={_address_of(url)}", f"{name}={_EXAMPLE}", f"identity1.local={url}")
    lowered = name.lower().rstrip(".")
    if ":" in lowered or not lowered or len(lowered) > 253 or not all(map(_LABEL.fullmatch, lowered.split("."))):
        forms = (f"identity1.local={url}", f"identity1.local={_HTTP_EXAMPLE}")
        raise _Mistake(f"{name!r} is not a host name", *forms)
    return lowered


def _address_of(url: str) -> str:
    """Return host and port of a URL as they stand in it."""
    return url.partition("://")[2].partition("/")[0]


def _check_host(host: str, *forms: str) -> str:
    """Return an address or a name to resolve, in lower case and without the brackets of IPv6."""
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1] if host.endswith("]") else ""))
        except ValueError:
            raise _Mistake(f"{host!r} is not an IPv6 address", *forms, "[fd00::10]:22") from None
    lowered = host.lower().rstrip(".")
    numeric = all(label.isdecimal() for label in lowered.split("."))
    if numeric:
        try:
            return str(ipaddress.IPv4Address(lowered))
        except ValueError:
            raise _Mistake(f"{host!r} is not an IPv4 address", *forms) from None
    if len(lowered) > 253 or not all(map(_LABEL.fullmatch, lowered.split("."))):
        raise _Mistake(f"{host!r} is neither an address nor a host name", *forms)
    return lowered


def _parse_port(text: str, form: str) -> int:
    if not _is_number(text) or not 0 < int(text) < 65536:
        raise _Mistake(f"{text!r} is not a port, a number from 1 to 65535", form)
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20
