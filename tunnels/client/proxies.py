"""Proxies: which HTTP or SOCKS proxy the way to the gateway takes, by the variables that everybody sets."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"ws": 80, "wss": 443}


class ProxyInvalid(ValueError):
    """A proxy variable that can't be used; the message says which."""


def read_proxies() -> dict[str, str]:
    """Return the proxies of the environment, in lower or upper case, else of the system (Windows, macOS).

    The keys are ``http``, ``https``, ``all`` and ``no``.
    """
    return urllib.request.getproxies()


def find_proxy(url: str, proxies: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy for *url* (ws or wss), or None for the direct way.

    wss takes HTTPS_PROXY, ws takes HTTP_PROXY, and both take ALL_PROXY where theirs is missing. Raises ProxyInvalid.
    """
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "wss" else "http"
    proxy = (proxies.get(scheme) or proxies.get("all") or "").strip()
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
    if not proxy or is_exempt(host, port, proxies.get("no", "")) or _is_exempt_by_system(host):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    variable = f"{scheme.upper()}_PROXY" if proxies.get(scheme) else "ALL_PROXY"
    try:
        found = urlsplit(proxy)
        usable = bool(found.hostname) and (found.port is None or found.port > 0)
    except ValueError:
        usable = False
    # The value itself may hold a password: the message does without it.
    if not usable or found.scheme not in ("http", "https", "socks4", "socks5", "socks5h"):
        raise ProxyInvalid(f"{variable} is not the URL of a proxy: write for example http://proxy.corp.example:3128")
    return proxy.replace("socks5h://", "socks5://", 1)  # names are resolved by the proxy either way


def name_proxy(proxy: str) -> str:
    """Return host and port of *proxy*, without its credentials, for messages."""
    parts = urlsplit(proxy)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port}" if parts.port else f"{host}"


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Say whether NO_PROXY holds *host*.

    Entries are separated by commas or spaces: ``*``, a name (itself and everything below it, with or without a dot in
    front), an address, a network such as ``10.0.0.0/8``; each may end in ``:port``.
    """
    host = host.lower().rstrip(".")
    return any(_matches(host, port, entry) for entry in no_proxy.lower().replace(",", " ").split())


def _matches(host: str, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    address = _read_address(host)
    network = _read_network(entry)
    if network is not None:
        return address is not None and address in network
    name, colon, entry_port = entry.rpartition(":")
    if colon and entry_port.isdecimal():
        if int(entry_port) != port:
            return False
        network = _read_network(name.strip("[]"))
        if network is not None:
            return address is not None and address in network
        entry = name
    entry = entry.removeprefix("*").strip("[]").strip(".")
    return bool(entry) and address is None and (host == entry or host.endswith("." + entry))


def _read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def _is_exempt_by_system(host: str) -> bool:
    """Ask the system's own list of exceptions, where the proxies came from there and not from the environment."""
    return not urllib.request.getproxies_environment() and bool(urllib.request.proxy_bypass(host))
