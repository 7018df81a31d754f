"""Options: what a client is told by flags, by a configuration file and by the environment, checked before it starts.

Flags win over the file and the file wins over the environment. An option has one name everywhere: ``--dial-timeout``,
``dial-timeout:`` in the file, ``MOORLINE_DIAL_TIMEOUT`` in the environment.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from ..logs import FORMATS, LEVELS
from .configuration import ConfigurationInvalid, read_configuration
from .tokens import TokenSource, warn_of_readers
from .upstreams import Upstream, UpstreamError, UpstreamTable, parse_upstream

Value = TypeVar("Value")

NAMES: Final = (
    "url",
    "token",
    "token-file",
    "upstream",
    "connections",
    "ca-file",
    "upstream-insecure",
    "upstream-ca-file",
    "dial-timeout",
    "drain-timeout",
    "log-format",
    "log-level",
)
MAX_CONNECTIONS: Final = 16
_URL_FORM: Final = "wss://HOST/CUSTOMER/TUNNEL"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label as of RFC 1123
_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class OptionInvalid(ValueError):
    """An option that can't be used; the message is one line and says what to do."""


@dataclass(frozen=True)
class ClientOptions:
    """Everything a client needs to know; times in seconds.

    *warnings* are sentences for the log: what works and should still be changed.
    """

    url: str
    token: TokenSource
    upstreams: UpstreamTable
    connections: int = 1
    ca_file: Path | None = None
    upstream_insecure: bool = False
    upstream_ca_file: Path | None = None
    dial_timeout: float = 5.0
    drain_timeout: float = 30.0
    log_format: str = "text"
    log_level: str = "info"
    warnings: tuple[str, ...] = ()

    @property
    def tunnel(self) -> str:
        """The tunnel as ``customer/tunnel``."""
        return urlsplit(self.url).path.strip("/")


@dataclass(frozen=True)
class Setting:
    """One value as it was given, with where it came from, for messages; *layer* is flag, file or environment."""

    value: Any
    origin: str
    layer: str


def load_options(flags: Mapping[str, Any], environment: Mapping[str, str], config: Path | None = None) -> ClientOptions:
    """Merge flags, the *config* file and the *environment*, and check every value.

    Arguments: *flags* by the names of NAMES, None where one was not given. Raises OptionInvalid.
    """
    layers = [_read_flags(flags), _read_config(config) if config else {}, _read_environment(environment)]
    settings: dict[str, Setting] = {}
    for layer in reversed(layers):
        settings.update(layer)
    warnings: list[str] = []
    url = _take(settings, "url", lambda value: _check_url(value, warnings))
    if url is None:
        raise OptionInvalid(f"the gateway's address is missing: give --url {_URL_FORM}")
    customer = urlsplit(url).path.split("/")[1]
    upstreams = _take(settings, "upstream", lambda value: _read_upstreams(value, customer))
    if upstreams is None:
        raise OptionInvalid("there is nothing to forward to: give --upstream, for example --upstream 192.168.1.10:8080")
    drain_timeout = _take(settings, "drain-timeout", lambda value: _read_seconds(value, 0, 3600))
    insecure = _take(settings, "upstream-insecure", _read_switch) or False
    if insecure:
        warnings.append(
            "--upstream-insecure: certificates of https upstreams are not checked; "
            "better give the CA that signed them with --upstream-ca-file"
        )
    ca_file = _take(settings, "ca-file", _read_file)
    if ca_file is not None and url.startswith("ws:"):
        warnings.append("--ca-file changes nothing, because ws:// goes without TLS: remove it, or use wss://")
    return ClientOptions(
        url=url,
        token=_choose_token(layers, config, warnings),
        upstreams=upstreams,
        connections=_take(settings, "connections", _read_count) or ClientOptions.connections,
        ca_file=ca_file,
        upstream_insecure=insecure,
        upstream_ca_file=_take(settings, "upstream-ca-file", _read_file),
        dial_timeout=_take(settings, "dial-timeout", lambda value: _read_seconds(value, 0.1, 300))
        or ClientOptions.dial_timeout,
        drain_timeout=ClientOptions.drain_timeout if drain_timeout is None else drain_timeout,
        log_format=_take(settings, "log-format", lambda value: _read_choice(value, FORMATS))
        or ClientOptions.log_format,
        log_level=_take(settings, "log-level", lambda value: _read_choice(value, LEVELS)) or ClientOptions.log_level,
        warnings=tuple(warnings),
    )


# -- layers -----------------------------------------------------------------------------------------------------------


def _read_flags(flags: Mapping[str, Any]) -> dict[str, Setting]:
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    return {name: Setting(value, f"--{name}", "flag") for name, value in given.items()}


def _read_environment(environment: Mapping[str, str]) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for name in NAMES:
        variable = "MOORLINE_" + name.upper().replace("-", "_")
        value: Any = environment.get(variable, "").strip()
        if value:
            found[name] = Setting(value.split() if name == "upstream" else value, variable, "environment")
    return found


def _read_config(path: Path) -> dict[str, Setting]:
    try:
        document = read_configuration(path)
    except ConfigurationInvalid as error:
        raise OptionInvalid(f"--config: {path} {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise OptionInvalid(f"--config: {path} holds no options: write one to a line, as url: {_URL_FORM}")
    found: dict[str, Setting] = {}
    for key, value in document.items():
        name = str(key).replace("_", "-")
        if name not in NAMES:
            raise OptionInvalid(f"--config: {path} has an unknown option {str(key)!r}{_suggest(name)}")
        if name in found:
            raise OptionInvalid(f"--config: {path} gives {name} twice: remove one of the two")
        if value is not None:
            found[name] = Setting(value, f"{name} in {path}", "file")
    return found


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name, NAMES, 1)
    return f": did you mean {close[0]}?" if close else f": it may hold {', '.join(NAMES)}"


def _take(settings: Mapping[str, Setting], name: str, read: Callable[[Any], Value]) -> Value | None:
    """Return the checked value of an option, or None where nobody gave it."""
    setting = settings.get(name)
    return None if setting is None else _check(setting, read)


def _check(setting: Setting, read: Callable[[Any], Value]) -> Value:
    try:
        return read(setting.value)
    except ValueError as error:
        raise OptionInvalid(f"{setting.origin}: {error}") from None


# -- values -----------------------------------------------------------------------------------------------------------


def _choose_token(layers: Sequence[Mapping[str, Setting]], config: Path | None, warnings: list[str]) -> TokenSource:
    """Take the token of the strongest layer that has one."""
    for layer in layers:
        token, token_file = layer.get("token"), layer.get("token-file")
        if token is not None and token_file is not None:
            raise OptionInvalid(f"{token.origin} and {token_file.origin} are both given: remove one of them")
        if token is not None:
            if token.layer == "flag":
                warnings.append("--token shows in the process list: use --token-file or MOORLINE_TOKEN instead")
            elif token.layer == "file" and config is not None:
                warnings.extend(warn_of_readers(config))
            return _check(token, lambda value: TokenSource(text=_read_text(value)))
        if token_file is not None:
            source = _check(token_file, lambda value: TokenSource(path=Path(_read_text(value)).expanduser()).check())
            warnings.extend(warn_of_readers(source.path))
            return source
    raise OptionInvalid("the token is missing: give --token-file FILE, or the token itself in MOORLINE_TOKEN")


def _check_url(value: Any, warnings: list[str]) -> str:
    """Return the address of the tunnel as a WebSocket URL."""
    text = _read_text(value)
    if "@" in text:
        raise ValueError(f"an address has no user name or password; write {_URL_FORM} and give the token by itself")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"{text!r} has a port or an address that is none; write {_URL_FORM}") from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{text!r} is not the address of a gateway; write {_URL_FORM}")
    if parts.query or parts.fragment:
        raise ValueError(f"{text!r} goes on after the tunnel's name; write {_URL_FORM}")
    labels = parts.path.strip("/").split("/")
    if len(labels) != 2 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(
            f"the path {parts.path or '/'!r} does not name a customer and a tunnel in lower case; write {_URL_FORM}"
        )
    if scheme == "ws" and not is_loopback(parts.hostname):
        warnings.append(
            f"ws:// sends the token and every byte unprotected to {parts.hostname}: use wss:// outside of a test"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}{f':{port}' if port else ''}/{'/'.join(labels)}"


def is_loopback(host: str) -> bool:
    """Say whether *host*, a name or an address, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read_upstreams(value: Any, customer: str) -> UpstreamTable:
    texts = value if isinstance(value, list) else [value]
    upstreams: list[Upstream] = []
    for text in texts:
        if not isinstance(text, str):  # YAML reads 8080 as a number
            raise OptionInvalid(
                f"{text!r} is not an upstream; write for example 192.168.1.10:8080, in quotes in a file"
            )
        try:
            upstreams.append(parse_upstream(text))
        except UpstreamError as error:
            shown = text.strip()
            known = not shown or "@" in text or repr(shown) in str(error)
            raise ValueError(str(error) if known else f"{shown}: {error}") from None
    if not upstreams:
        raise ValueError("the list is empty; write for example 192.168.1.10:8080")
    return UpstreamTable(upstreams, customer)


def _read_text(value: Any) -> str:
    if not isinstance(value, str | int | Path) or not str(value).strip():
        raise ValueError("it is empty, or not a text")
    return str(value).strip()


def _read_count(value: Any) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= MAX_CONNECTIONS:
        raise ValueError(f"{text!r} is not a number from 1 to {MAX_CONNECTIONS}")
    return int(text)


def _read_seconds(value: Any, least: float, most: float) -> float:
    text = str(value).strip().removesuffix("s")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= most:
        raise ValueError(f"{str(value)!r} is not a number of seconds from {least:g} to {most:g}")
    return seconds


def _read_switch(value: Any) -> bool:
    found = value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return found


def _read_choice(value: Any, choices: Sequence[str]) -> str:
    text = str(value).strip().lower()
    if text not in choices:
        raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
    return text


def _read_file(value: Any) -> Path:
    path = Path(_read_text(value)).expanduser()
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
