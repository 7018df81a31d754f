"""The gateway's own responses: which hop of the way failed, in words, for a person and for a program."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ...protocol import ErrorCode

RETRY_AFTER: Final = 5  # seconds

APPLICATION: Final = "application"
GATEWAY: Final = "gateway to client"
CLIENT: Final = "client to upstream"
UPSTREAM: Final = "upstream"

_HTML: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{status} {phrase}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:38em;margin:15vh auto;padding:0 1em;color:#333}}
h1{{font-size:1.25em}}dt{{color:#666}}dd{{margin:0 0 .5em}}</style>
<h1>{phrase}</h1>
<p>{message}</p>
<dl><dt>Failed at</dt><dd>{hop}</dd><dt>Code</dt><dd>{code}</dd><dt>Request</dt><dd>{request_id}</dd></dl>
</html>
"""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no response of an upstream.

    Arguments: the HTTP *status*; the machine *code*; the *hop* of the way that failed; a *message* for people.
    """

    status: int
    code: str
    hop: str
    message: str


def stream_failure(code: ErrorCode, reason: str, *, tunnel: str, host: str) -> Failure:
    """Return what to say where the stream to *host* was refused, rejected or reset with *code* and *reason*."""
    client = f"The client of {tunnel}"
    detail = ": " + "".join(c if c.isprintable() else " " for c in reason) if reason else ""
    match code:
        case ErrorCode.UNKNOWN_UPSTREAM:
            return Failure(502, code.name, CLIENT, f"{client} has no upstream for Host {host}.")
        case ErrorCode.UPSTREAM_REFUSED:
            return Failure(502, code.name, CLIENT, f"{client} was refused by the upstream of {host}{detail}.")
        case ErrorCode.UPSTREAM_UNREACHABLE:
            return Failure(502, code.name, CLIENT, f"{client} can't reach the upstream of {host}{detail}.")
        case ErrorCode.UPSTREAM_TIMEOUT:
            return Failure(
                504, code.name, CLIENT, f"{client} got no answer from the upstream of {host} in time{detail}."
            )
        case ErrorCode.UPSTREAM_NAME:
            return Failure(
                502, code.name, CLIENT, f"{client} can't resolve the name of the upstream of {host}{detail}."
            )
        case ErrorCode.UPSTREAM_TLS:
            return Failure(502, code.name, CLIENT, f"{client} can't agree on TLS with the upstream of {host}{detail}.")
        case ErrorCode.LIMIT:
            return Failure(503, code.name, GATEWAY, f"{client} holds as many streams as it may; try again{detail}.")
        case ErrorCode.SHUTDOWN | ErrorCode.REPLACED:
            return Failure(503, code.name, GATEWAY, f"{client} is stopping or reconnecting; try again{detail}.")
        case ErrorCode.REVOKED | ErrorCode.DISABLED:
            return Failure(503, code.name, GATEWAY, f"The tunnel {tunnel} is not in service{detail}.")
        case ErrorCode.LOST | ErrorCode.TIMEOUT:
            return Failure(502, code.name, GATEWAY, f"The connection to the client of {tunnel} was lost{detail}.")
        case ErrorCode.CANCELLED | ErrorCode.OK:
            return Failure(
                502, "UPSTREAM_CLOSED", UPSTREAM, f"The upstream of {host} closed without a response{detail}."
            )
        case _:
            return Failure(502, code.name, GATEWAY, f"The stream to the client of {tunnel} failed{detail}.")


def no_session(code: ErrorCode, reason: str, *, tunnel: str, host: str) -> Failure:
    """Return what to say where no session took the stream."""
    if code is ErrorCode.LOST:
        message = f"The customer's client is not connected: no client of {tunnel} has a session here now."
        return Failure(503, "NO_SESSION", GATEWAY, message)
    return stream_failure(code, reason, tunnel=tunnel, host=host)


def render_failure(
    failure: Failure, *, accept: bytes = b"", request_id: bytes = b"-", head_only: bool = False, connection: bytes
) -> bytes:
    """Return a whole response: HTML, JSON or plain text, whichever *accept* names; *connection* is its header's value.

    With *head_only* the body is left out (RFC 9110 section 9.3.2).
    """
    phrase = HTTPStatus(failure.status).phrase
    facts = {
        "status": failure.status,
        "code": failure.code,
        "hop": failure.hop,
        "message": failure.message,
        "request_id": request_id.decode("ascii"),
    }
    accepted = accept.lower()
    if b"text/html" in accepted:
        kind = "text/html"
        text = _HTML.format(phrase=phrase, **{name: html.escape(str(value)) for name, value in facts.items()})
    elif b"json" in accepted:
        kind = "application/json"
        text = json.dumps(facts) + "\n"
    else:
        kind = "text/plain"
        text = f"{failure.status} {phrase}\n{failure.message}\nFailed at: {failure.hop}. Code: {failure.code}.\n"
    body = text.encode()
    retry = f"Retry-After: {RETRY_AFTER}\r\n" if failure.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {failure.status} {phrase}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nX-Moorline-Error: {failure.code}\r\n{retry}"
        f"X-Request-Id: {facts['request_id']}\r\nConnection: {connection.decode('ascii')}\r\n\r\n"
    ).encode("ascii")
    return head if head_only else head + body
