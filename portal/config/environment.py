"""Read the environment, once, and check it.

Every variable is named ``MOORLINE_*``. Each may be given as ``MOORLINE_*_FILE`` instead: the path of a file that holds
the value, as container platforms mount secrets.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

PORTS = (1, 65535)
MAX_SESSIONS = (1, 1024)
MAX_STREAMS = (1, 1_000_000)
# Below 1024 only root may listen.
LISTEN_PORTS = (1024, 65535)
HOP_SECRET_LENGTH = 32
GATEWAY_LABELS = "app.kubernetes.io/name=moorline,app.kubernetes.io/component=gateway"
SECRET_KEY_LENGTH = 50
SECRET_KEY_DISTINCT_CHARACTERS = 5
MAKE_SECRET_KEY = 'python3 -c "import secrets; print(secrets.token_urlsafe(48))"'  # noqa: S105 - a command
# Seconds a write waits for another process to let go of a SQLite database.
SQLITE_BUSY_TIMEOUT = 20
# Seconds to wait for PostgreSQL to accept a connection, and milliseconds for it to acknowledge what we sent.
POSTGRES_CONNECT_TIMEOUT = 3
POSTGRES_TCP_TIMEOUT = 10_000
# Seconds for which a thread keeps its connection: a gateway asks something with every client that comes.
POSTGRES_KEEP_SECONDS = 60
POSTGRES_OPTIONS = frozenset({"sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "connect_timeout"})

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class SettingError(Exception):
    """A variable is missing or wrong; the message is one line that names it and says what to set."""


@dataclass(frozen=True)
class Environment:
    """What the environment says, checked."""

    data: Path
    secret_key: str
    debug: bool
    public_url: str
    allowed_hosts: list[str]
    csrf_trusted_origins: list[str]
    trust_proxy: bool
    database: dict[str, Any]
    redis_url: str
    log_format: str
    log_level: str
    port: int
    http_listen_start: int
    tcp_listen_start: int
    max_sessions: int
    max_streams: int
    gateway_name: str
    listen_host: str
    trusted_proxies: str
    drain_timeout: int
    listener_linger: int
    gateway_address: str
    gateway_customers: list[str]
    gateway_labels: dict[str, str]
    hop_port: int
    hop_secret: str
    target: str
    installation: str
    namespace: str
    tunnels_namespace: str
    kubeconfig: str
    inlets_compatible: bool
    listen_ports: range | None
    port_quarantine: int
    max_ports: int
    network_policies: bool
    connect_url: str
    metrics_port: int
    alive_file: str
    admin_username: str
    admin_password: str


class _Variables:
    """Typed access to the variables of one environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str = "") -> str:
        value, path = self._environ.get(name, ""), self._environ.get(f"{name}_FILE", "")
        if value and path:
            raise SettingError(f"Both {name} and {name}_FILE are set. Unset one of them.")
        if path:
            try:
                value = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                raise SettingError(f"{name}_FILE names {path}, which cannot be read: {reason}.") from error
        return value or default

    def number(self, name: str, default: int, bounds: tuple[int, int]) -> int:
        text = self.text(name, str(default))
        lowest, highest = bounds
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise SettingError(f"{name} is {text!r}. Set it to a whole number from {lowest} to {highest}.")
        return int(text)

    def flag(self, name: str) -> bool:
        text = self.text(name, "0").lower()
        if text not in _TRUE | _FALSE:
            raise SettingError(f"{name} is {text!r}. Set it to 1 or 0.")
        return text in _TRUE

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Read one of ``choices``; the first is the default."""
        text = self.text(name, choices[0]).lower()
        if text not in choices:
            raise SettingError(f"{name} is {text!r}. Set it to one of: {', '.join(choices)}.")
        return text

    def words(self, name: str) -> list[str]:
        return self.text(name).replace(",", " ").split()


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read and check every variable the portal knows.

    Raises:
        SettingError: when one is missing or wrong.
    """
    variables = _Variables(environ)
    data = Path(variables.text("MOORLINE_DATA", ".moorline")).absolute()
    debug = variables.flag("MOORLINE_DEBUG")
    port = variables.number("MOORLINE_PORT", 8000, PORTS)
    public_url = _check_url(
        "MOORLINE_PUBLIC_URL", variables.text("MOORLINE_PUBLIC_URL", f"http://127.0.0.1:{port}"), ("http", "https")
    ).rstrip("/")
    redis_url = variables.text("MOORLINE_REDIS_URL")
    if redis_url:
        _check_url("MOORLINE_REDIS_URL", redis_url, ("redis", "rediss", "unix"))
    public_host = urlsplit(public_url).hostname or ""
    return Environment(
        data=data,
        secret_key=_read_secret_key(variables, weak_allowed=debug),
        debug=debug,
        public_url=public_url,
        allowed_hosts=variables.words("MOORLINE_ALLOWED_HOSTS") or sorted({public_host, "127.0.0.1", "localhost"}),
        csrf_trusted_origins=_read_origins(variables, public_url),
        trust_proxy=variables.flag("MOORLINE_TRUST_PROXY"),
        database=read_database_url(variables.text("MOORLINE_DATABASE_URL", f"sqlite:///{data}/moorline.sqlite3")),
        redis_url=redis_url,
        log_format=variables.choice("MOORLINE_LOG_FORMAT", ("text", "json")),
        log_level=variables.choice("MOORLINE_LOG_LEVEL", ("info", "debug", "warning", "error")).upper(),
        port=port,
        http_listen_start=variables.number("MOORLINE_HTTP_LISTEN_START", 8001, PORTS),
        tcp_listen_start=variables.number("MOORLINE_TCP_LISTEN_START", 20000, PORTS),
        max_sessions=variables.number("MOORLINE_MAX_SESSIONS", 16, MAX_SESSIONS),
        max_streams=variables.number("MOORLINE_MAX_STREAMS", 4096, MAX_STREAMS),
        gateway_name=variables.text("MOORLINE_GATEWAY_NAME", socket.gethostname()),
        listen_host=_read_address(variables, "MOORLINE_LISTEN_HOST", "127.0.0.1"),
        trusted_proxies=_read_networks(variables, "MOORLINE_TRUSTED_PROXIES"),
        drain_timeout=variables.number("MOORLINE_DRAIN_TIMEOUT", 30, (0, 86_400)),
        listener_linger=variables.number("MOORLINE_LISTENER_LINGER", 0, (0, 3600)),
        gateway_address=_read_address(variables, "MOORLINE_GATEWAY_ADDRESS", ""),
        gateway_customers=variables.words("MOORLINE_GATEWAY_CUSTOMERS"),
        gateway_labels=_read_labels(variables, "MOORLINE_GATEWAY_LABELS", GATEWAY_LABELS),
        hop_port=variables.number("MOORLINE_HOP_PORT", 8001, PORTS),
        hop_secret=_read_hop_secret(variables),
        target=variables.choice("MOORLINE_TARGET", ("local", "kubernetes")),
        installation=_read_label(variables, "MOORLINE_INSTALLATION", "moorline"),
        namespace=_read_label(variables, "MOORLINE_NAMESPACE", "moorline"),
        tunnels_namespace=_read_label(variables, "MOORLINE_TUNNELS_NAMESPACE", ""),
        kubeconfig=variables.text("MOORLINE_KUBECONFIG"),
        inlets_compatible=variables.flag("MOORLINE_INLETS_COMPATIBLE"),
        listen_ports=_read_range(variables, "MOORLINE_LISTEN_PORTS"),
        port_quarantine=variables.number("MOORLINE_PORT_QUARANTINE", 600, (0, 86_400)),
        max_ports=variables.number("MOORLINE_MAX_PORTS", 1000, (2, 60_000)),
        network_policies=variables.flag("MOORLINE_NETWORK_POLICIES"),
        connect_url=_check_url(
            "MOORLINE_CONNECT_URL", variables.text("MOORLINE_CONNECT_URL", public_url), ("http", "https")
        ).rstrip("/"),
        metrics_port=variables.number("MOORLINE_METRICS_PORT", 0, (0, PORTS[1])),
        alive_file=variables.text("MOORLINE_ALIVE_FILE"),
        admin_username=variables.text("MOORLINE_ADMIN_USERNAME", "admin"),
        admin_password=variables.text("MOORLINE_ADMIN_PASSWORD"),
    )


def _read_address(variables: _Variables, name: str, default: str) -> str:
    text = variables.text(name, default)
    if not text:
        return ""
    try:
        return str(ip_address(text))
    except ValueError:
        raise SettingError(f"{name} is {text!r}. Set it to an IP address, such as 127.0.0.1 or 0.0.0.0.") from None


def _read_label(variables: _Variables, name: str, default: str) -> str:
    """Read what becomes the name of a namespace or the value of a label."""
    text = variables.text(name, default)
    if text and not (len(text) <= 63 and re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", text)):
        raise SettingError(f"{name} is {text[:80]!r}. Use 1 to 63 lower-case letters, digits and hyphens.")
    return text


def _read_labels(variables: _Variables, name: str, default: str) -> dict[str, str]:
    """Read the labels that select pods, as ``key=value,key=value``."""
    pairs = [word.partition("=") for word in variables.text(name, default).replace(",", " ").split()]
    if not all(key and equals and value for key, equals, value in pairs):
        raise SettingError(f"{name} is not a list of labels. Write key=value,key=value.")
    return {key: value for key, _, value in pairs}


def _read_range(variables: _Variables, name: str) -> range | None:
    """Read a range of ports, both ends included; nothing where it is not set."""
    text = variables.text(name)
    if not text:
        return None
    first, _, last = text.partition("-")
    numbers = [int(part) for part in (first, last) if part.isascii() and part.isdigit() and len(part) <= 5]
    if len(numbers) != 2 or not LISTEN_PORTS[0] <= numbers[0] <= numbers[1] <= LISTEN_PORTS[1]:
        raise SettingError(
            f"{name} is {text[:20]!r}. Write the first and the last port, such as 20000-29999, "
            f"from {LISTEN_PORTS[0]} to {LISTEN_PORTS[1]}."
        )
    return range(numbers[0], numbers[1] + 1)


def _read_hop_secret(variables: _Variables) -> str:
    secret = variables.text("MOORLINE_HOP_SECRET")
    if secret and len(secret) < HOP_SECRET_LENGTH:
        raise SettingError(
            f"MOORLINE_HOP_SECRET has fewer than {HOP_SECRET_LENGTH} characters. {MAKE_SECRET_KEY} makes a good one."
        )
    return secret


def _read_networks(variables: _Variables, name: str) -> str:
    """Read a list of networks and give it back in one form, separated by commas."""
    networks = []
    for word in variables.words(name):
        try:
            networks.append(str(ip_network(word, strict=False)))
        except ValueError:
            raise SettingError(f"{name} holds {word!r}. Write addresses or networks, such as 10.0.0.0/8.") from None
    return ",".join(networks)


def read_database_url(url: str) -> dict[str, Any]:
    """Turn ``sqlite:///path`` or ``postgres://user:password@host:port/name?sslmode=require`` into Django's form.

    Raises:
        SettingError: when the URL is of neither form.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        path = unquote(url.removeprefix("sqlite:///"))
        if not url.startswith("sqlite:///") or not path:
            raise SettingError("MOORLINE_DATABASE_URL has no path. Write sqlite:///path/to/moorline.sqlite3.")
        return _sqlite(Path(path).absolute())
    if parts.scheme in ("postgres", "postgresql"):
        return _postgres(url)
    raise SettingError("MOORLINE_DATABASE_URL must begin with sqlite:/// or postgres://.")


def _sqlite(path: Path) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {
            "timeout": SQLITE_BUSY_TIMEOUT,
            # A transaction that writes later takes its lock at once: it waits in line instead of failing half way.
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def _postgres(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingError("MOORLINE_DATABASE_URL has a port that is not a number from 1 to 65535.") from error
    query = dict(parse_qsl(parts.query))
    host = query.pop("host", parts.hostname or "")
    name = unquote(parts.path.removeprefix("/"))
    if not name:
        raise SettingError("MOORLINE_DATABASE_URL names no database. Write postgres://user:password@host:5432/name.")
    if unknown := sorted(set(query) - POSTGRES_OPTIONS):
        known = ", ".join(sorted(POSTGRES_OPTIONS))
        raise SettingError(f"MOORLINE_DATABASE_URL has the unknown option {unknown[0]!r}. Known are: {known}.")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(port or ""),
        "CONN_MAX_AGE": POSTGRES_KEEP_SECONDS,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": POSTGRES_CONNECT_TIMEOUT,
            "tcp_user_timeout": POSTGRES_TCP_TIMEOUT,
            "application_name": "moorline",
            **query,
        },
    }


def _read_secret_key(variables: _Variables, *, weak_allowed: bool) -> str:
    """Read the key, and refuse one that could be guessed, unless this is a machine for developing."""
    key = variables.text("MOORLINE_SECRET_KEY")
    if not key:
        raise SettingError(
            "MOORLINE_SECRET_KEY is not set. Set it, or MOORLINE_SECRET_KEY_FILE, to at least "
            f"{SECRET_KEY_LENGTH} random characters; {MAKE_SECRET_KEY} makes some."
        )
    strong = len(key) >= SECRET_KEY_LENGTH and len(set(key)) >= SECRET_KEY_DISTINCT_CHARACTERS
    if not (strong or weak_allowed):
        raise SettingError(
            f"MOORLINE_SECRET_KEY is weak: it has fewer than {SECRET_KEY_LENGTH} characters or repeats a few. "
            f"{MAKE_SECRET_KEY} makes a good one."
        )
    return key


def _read_origins(variables: _Variables, public_url: str) -> list[str]:
    origins = variables.words("MOORLINE_CSRF_TRUSTED_ORIGINS")
    for origin in origins:
        _check_url("MOORLINE_CSRF_TRUSTED_ORIGINS", origin, ("http", "https"))
    parts = urlsplit(public_url)
    return sorted({f"{parts.scheme}://{parts.netloc}", *origins})


def _check_url(name: str, url: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(url)
        complete = parts.scheme in schemes and bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port
    except ValueError:
        complete = False
    if not complete:
        # The value stays out of the message: such a URL may hold a password.
        raise SettingError(f"{name} is not a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}.")
    return url
