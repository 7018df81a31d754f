"""Endings: why an attempt or a connection ended, what a person should do about it, and when to try again.

A gateway refuses on the HTTP level (401, 403, 404, 409, 426, 429) or, on a server that can't, by a close code of 4000
plus that status right after the upgrade (SPEC.md section 2).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Final
from urllib.parse import urlsplit

from picows import WSHandshakeError
from python_socks import ProxyError

from ..logs import clean_line
from ..protocol import ErrorCode
from .backoff import Pace
from .options import is_loopback
from .proxies import ProxyInvalid, name_proxy

LONGEST_REASON: Final = 300
LONGEST_RETRY_AFTER: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Ending:
    """Why there is no connection.

    *sentence* says what happened, *advice* what a person should do, if anything; *at_least* is the seconds that the
    gateway asked to wait.
    """

    sentence: str
    advice: str = ""
    pace: Pace = Pace.BACKOFF
    at_least: float = 0.0

    def __str__(self) -> str:
        return f"{self.sentence}: {self.advice}" if self.advice else self.sentence


_REFUSALS: Final[Mapping[int, tuple[str, str, Pace]]] = {
    401: (
        "the gateway does not know this token",
        "check that --token-file or MOORLINE_TOKEN holds the whole token of this tunnel, or ask the provider for a "
        "new one",
        Pace.SLOW,
    ),
    403: (
        "the gateway refuses this client",
        "ask the provider whether the token was revoked or has expired, and whether the tunnel is enabled",
        Pace.SLOW,
    ),
    404: (
        "the gateway knows no tunnel of this name",
        "check customer and tunnel at the end of --url",
        Pace.SLOW,
    ),
    409: (
        "the tunnel has as many sessions as it may have",
        "stop another client of this tunnel, lower --connections, or ask the provider for a higher limit",
        Pace.MEDIUM,
    ),
    426: (
        "the gateway does not speak this client's protocol",
        "bring the moorline client to the version the provider asks for",
        Pace.SLOW,
    ),
    429: (
        "the gateway asks for patience after too many attempts",
        "check that no other client tries with a wrong token from this address",
        Pace.SLOW,
    ),
}

_CODES: Final[Mapping[ErrorCode, tuple[str, str, Pace]]] = {
    ErrorCode.SHUTDOWN: ("the gateway is stopping", "", Pace.AT_ONCE),
    ErrorCode.REVOKED: (
        "the token opens this tunnel no more",
        "ask the provider for a new one and put it where --token-file or MOORLINE_TOKEN is read from",
        Pace.SLOW,
    ),
    ErrorCode.DISABLED: ("the provider has closed this tunnel", "ask the provider when it opens again", Pace.SLOW),
    ErrorCode.REPLACED: (
        "another client took this one's place",
        "stop the one of the two that should not run",
        Pace.MEDIUM,
    ),
    ErrorCode.VERSION: (
        "the gateway speaks another version of the protocol",
        "bring the moorline client to the version the provider asks for",
        Pace.SLOW,
    ),
    ErrorCode.LIMIT: ("the gateway ended the session over a limit", "", Pace.MEDIUM),
    ErrorCode.TIMEOUT: (
        "the gateway is not heard any more",
        "if this comes again and again, look for a proxy or firewall that cuts idle connections",
        Pace.BACKOFF,
    ),
    ErrorCode.LOST: ("the connection to the gateway was lost", "", Pace.BACKOFF),
}


# The portal's sentence comes with these, and says what to do.
_TOLD_BY_PROVIDER: Final = frozenset({ErrorCode.REVOKED, ErrorCode.DISABLED})
_NOT_READY: Final = frozenset({500, 502, 503, 504})  # what proxies say while the server behind them starts


def explain_refusal(status: int, reason: str, retry_after: str = "", *, from_gateway: bool = True) -> Ending:
    """Return what an HTTP *status* means.

    *reason* is what was said, for people; *retry_after* the header of that name (RFC 9110 section 10.2.3);
    *from_gateway* whether a gateway answered, and not something before it or in its place.
    """
    wait = _read_retry_after(retry_after)
    if status in _REFUSALS and (from_gateway or status == 429):
        sentence, advice, pace = _REFUSALS[status]
        # Retry-After with 429 says when: neither sooner nor much later.
        pace = Pace.AT_ONCE if status == 429 and wait else pace
        # The gateway knows more than the status tells, and says what to do: no second advice beside its own.
        return Ending(f"{sentence} ({status})", _shorten(reason).rstrip(".") or advice, pace, wait)
    said = f" (it says: {_shorten(reason)})" if reason.strip() else ""
    if status in _NOT_READY:
        advice = (
            "the gateway or the proxy before it is not ready; this client keeps trying. "
            "If it stays so, check that --url leads to a gateway"
        )
        return Ending(
            f"{'the gateway' if from_gateway else 'the server'} answers {status}", advice + said, at_least=wait
        )
    if 300 <= status < 400:
        advice = "redirects are not followed with a token; give the address that it redirects to as --url"
        return Ending(f"the server answers with a redirect ({status})", advice + said, Pace.SLOW)
    advice = (
        "--url does not lead to a Moorline gateway, or a proxy before it lets no WebSockets pass: "
        "check its host and port"
    )
    return Ending(f"the server answers {status} instead of opening a WebSocket", advice + said, Pace.SLOW, wait)


def explain_close(close_code: int | None, reason: str) -> Ending | None:
    """Return what a close code of a WebSocket means that tells a refusal, and None for every other one."""
    return explain_refusal(close_code - 4000, reason) if close_code and 4400 <= close_code < 4600 else None


def explain_end(code: ErrorCode, reason: str) -> Ending:
    """Return what the end of a session means that was open."""
    if code in _CODES:
        sentence, advice, pace = _CODES[code]
    else:
        sentence, pace = f"the session ended over an error ({code.name})", Pace.MEDIUM
        advice = "if this comes again, tell the provider, with this line"
    said = _shorten(reason)
    if said and code in _TOLD_BY_PROVIDER:
        return Ending(sentence, said.rstrip("."), pace)
    return Ending(f"{sentence} ({said})" if said else sentence, advice, pace)


def explain_unwanted(gateway: str) -> Ending:
    """Return why a connection was given up that led to a *gateway* which another line of this client is on."""
    return Ending(f"gateway {gateway} has a session of this client already, and there may be another", "", Pace.SOON)


def explain_failure(error: Exception, url: str, proxy: str | None, timeout: float) -> Ending:
    """Return what an *error* of the dial to *url* means; *proxy* is the way it took, *timeout* its limit in seconds."""
    host, gateway = urlsplit(url).hostname or "", urlsplit(url).netloc
    where = f"the proxy {name_proxy(proxy)}" if proxy else gateway
    if isinstance(error, WSHandshakeError):
        return _explain_handshake(error)
    if isinstance(error, ProxyInvalid):
        return Ending("the proxy setting can't be used", str(error), Pace.SLOW)
    if isinstance(error, ProxyError):
        return _explain_proxy(str(error), where)
    if isinstance(error, TimeoutError):
        return _explain_silence(url, proxy, where, timeout)
    if isinstance(error, ssl.SSLError):
        return _explain_tls(error, host)
    if isinstance(error, socket.gaierror):
        advice = "check the name and this machine's DNS" + ("" if proxy else ", or set HTTPS_PROXY")
        return Ending(f"the name of {where} does not resolve" if proxy else f"{host} does not resolve", advice)
    if isinstance(error, ConnectionRefusedError):
        return Ending(f"{where} refuses the connection", "check host and port, and that it is running")
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        return Ending(f"{where} is not reached ({_shorten(what)})", "check the network; this client keeps trying")
    return Ending(f"the connection failed ({type(error).__name__}: {_shorten(str(error))})", "", Pace.MEDIUM)


def _explain_silence(url: str, proxy: str | None, where: str, timeout: float) -> Ending:
    sentence = f"no answer from {where} within {timeout:g} s"
    no_tls = "the port may speak no TLS: a gateway without it, as on a laptop, is ws:// in --url"
    firewall = "check that a firewall lets this machine reach it, or set HTTPS_PROXY where a proxy is needed"
    if proxy or not url.startswith("wss:"):
        return Ending(sentence, firewall)
    # On this machine no firewall swallows a connection: what listens there waits for something else than TLS.
    return Ending(sentence, no_tls if is_loopback(urlsplit(url).hostname or "") else f"{firewall}; or {no_tls}")


def _explain_handshake(error: WSHandshakeError) -> Ending:
    response = error.response
    if response is None or response.status == 101:
        advice = "check that --url is the address of a Moorline gateway, and for ws:// or wss:// in front of it"
        return Ending(f"what answers is not a Moorline gateway ({_shorten(str(error))})", advice, Pace.SLOW)
    headers = response.headers
    if "X-Moorline-Error" in headers:
        advice = "write the gateway's address into --url; the port given there is one that a tunnel serves HTTP on"
        return Ending(f"what answers ({int(response.status)}) is a tunnel and not the gateway", advice, Pace.SLOW)
    is_text = headers.get("Content-Type", "").startswith("text/plain")
    # No cache may keep a gateway's refusal, and it is plain text.
    from_gateway = is_text and "no-store" in headers.get("Cache-Control", "")
    body = (error.raw_body or b"").decode("utf-8", "replace") if is_text else ""
    status, retry_after = int(response.status), headers.get("Retry-After", "")
    ending = explain_refusal(status, body, retry_after, from_gateway=from_gateway)
    location = headers.get("Location", "")
    if location:
        return Ending(f"{ending.sentence} to {_shorten(location.partition('?')[0])}", ending.advice, ending.pace)
    return ending


def _explain_proxy(text: str, where: str) -> Ending:
    if "407" in text:
        advice = "put user and password into the proxy's URL, as http://USER:PASSWORD@HOST:PORT"
        return Ending(f"{where} asks for credentials (407)", advice, Pace.SLOW)
    advice = "ask its administrators to allow CONNECT to the gateway, or name the gateway in NO_PROXY to go around it"
    return Ending(f"{where} does not let the connection pass ({_shorten(text)})", advice, Pace.BACKOFF)


def _explain_tls(error: ssl.SSLError, host: str) -> Ending:
    if isinstance(error, ssl.SSLCertVerificationError):
        what = getattr(error, "verify_message", "") or "the certificate is not trusted"
        if "ostname mismatch" in what or "IP address mismatch" in what:
            advice = "check the host in --url; the certificate is for another name"
        elif "expired" in what or "not yet valid" in what:
            advice = "check this machine's clock; if it is right, tell the provider"
        else:
            advice = (
                "if a private CA signed it, or a proxy in between replaces certificates, give that CA with --ca-file"
            )
        return Ending(f"the certificate of {host} is not accepted ({_shorten(what)})", advice, Pace.SLOW)
    advice = "check that --url has the right port, and write ws:// where it speaks no TLS, as on a laptop"
    what = getattr(error, "reason", "") or str(error)
    return Ending(f"TLS with {host} failed ({_shorten(what)})", advice)


def _read_retry_after(text: str) -> float:
    """Return the seconds of a Retry-After header, a number or a date, at most an hour; 0 where there is none."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), LONGEST_RETRY_AFTER)
    try:
        return min(max(parsedate_to_datetime(text).timestamp() - time(), 0.0), LONGEST_RETRY_AFTER)
    except (ValueError, TypeError):
        return 0.0


def _shorten(text: str) -> str:
    text = clean_line(" ".join(text.split()))
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."
