"""Whatever ends a connection, there is one line that says what a person should do, and a pace that fits."""

from __future__ import annotations

import email.utils
import errno
import socket
import ssl
import time

import pytest
from python_socks import ProxyError

from tunnels.client.backoff import Pace
from tunnels.client.endings import explain_close, explain_end, explain_failure, explain_refusal
from tunnels.protocol import ErrorCode

URL = "wss://gw.example/acmeco/prod"


@pytest.mark.parametrize(
    ("status", "said", "pace"),
    [
        (401, "--token-file", Pace.SLOW),
        (403, "revoked or has expired", Pace.SLOW),
        (404, "at the end of --url", Pace.SLOW),
        (409, "stop another client", Pace.MEDIUM),
        (426, "bring the moorline client to the version", Pace.SLOW),
        (429, "wrong token", Pace.SLOW),
        (301, "redirects are not followed", Pace.SLOW),
        (400, "--url does not lead to a Moorline gateway", Pace.SLOW),
        (502, "keeps trying", Pace.BACKOFF),
        (503, "keeps trying", Pace.BACKOFF),
    ],
)
def test_each_refusal_says_what_to_do_on_either_way_it_can_come(status: int, said: str, pace: Pace) -> None:
    ending = explain_refusal(status, "")
    assert said in str(ending)
    assert str(status) in str(ending)
    assert ending.pace is pace
    if 400 <= status < 500:
        assert explain_close(4000 + status, "") == ending
        assert explain_close(4000 + status, "a reason") == explain_refusal(status, "a reason")


@pytest.mark.parametrize("status", [401, 403, 404, 409, 426, 429])
def test_what_the_gateway_advises_stands_alone(status: int) -> None:
    ending = explain_refusal(status, "It is so. Do this.")
    assert ending.advice == "It is so. Do this"
    assert ending.pace is explain_refusal(status, "").pace


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 426, 501])
def test_an_answer_of_another_server_is_no_refusal_of_a_gateway(status: int) -> None:
    ending = explain_refusal(status, "", from_gateway=False)
    assert "--url does not lead to a Moorline gateway" in str(ending)
    assert ending.pace is Pace.SLOW


def test_a_server_that_is_not_ready_may_also_be_the_wrong_one() -> None:
    ending = explain_refusal(502, "", from_gateway=False)
    assert "the server answers 502" in str(ending)
    assert "check that --url leads to a gateway" in str(ending)


def test_other_close_codes_tell_no_refusal() -> None:
    assert [explain_close(code, "") for code in (None, 1000, 1006, 4033, 4600)] == [None] * 5


def test_what_the_gateway_says_can_forge_no_second_line() -> None:
    ending = explain_refusal(403, "line one\r\n2026-01-01 forged\x1b[2J" + "x" * 1000)
    assert str(ending).isprintable()
    assert len(str(ending)) < 700


def test_retry_after_decides_when_with_a_bound() -> None:
    in_20_s = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert explain_refusal(429, "", "17").at_least == 17
    assert 15 < explain_refusal(429, "", in_20_s).at_least <= 20
    assert explain_refusal(429, "", "99999999").at_least == 3600
    assert explain_refusal(429, "", "soon").at_least == 0
    assert explain_refusal(429, "", "17").pace is Pace.AT_ONCE
    assert explain_refusal(503, "", "17").at_least == 17


@pytest.mark.parametrize(
    ("code", "said", "pace"),
    [
        (ErrorCode.SHUTDOWN, "the gateway is stopping", Pace.AT_ONCE),
        (ErrorCode.REVOKED, "the token opens this tunnel no more", Pace.SLOW),
        (ErrorCode.DISABLED, "the provider has closed this tunnel", Pace.SLOW),
        (ErrorCode.REPLACED, "stop the one of the two", Pace.MEDIUM),
        (ErrorCode.VERSION, "bring the moorline client to the version", Pace.SLOW),
        (ErrorCode.LIMIT, "limit", Pace.MEDIUM),
        (ErrorCode.TIMEOUT, "cuts idle connections", Pace.BACKOFF),
        (ErrorCode.LOST, "was lost", Pace.BACKOFF),
        (ErrorCode.PROTOCOL, "tell the provider", Pace.MEDIUM),
    ],
)
def test_each_code_of_a_session_says_what_to_do(code: ErrorCode, said: str, pace: Pace) -> None:
    ending = explain_end(code, "why")
    assert said in str(ending)
    assert "why" in str(ending)
    assert ending.pace is pace


@pytest.mark.parametrize("code", [ErrorCode.REVOKED, ErrorCode.DISABLED])
def test_what_the_provider_says_at_the_end_is_not_contradicted(code: ErrorCode) -> None:
    assert explain_end(code, "The customer acmeco is suspended. Ask your provider.").advice == (
        "The customer acmeco is suspended. Ask your provider"
    )
    assert "ask the provider" in explain_end(code, "").advice


def verification_error(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = message
    return error


@pytest.mark.parametrize(
    ("error", "said", "pace"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "gw.example refuses", Pace.BACKOFF),
        (TimeoutError(), "no answer from gw.example within 15 s", Pace.BACKOFF),
        (socket.gaierror(socket.EAI_NONAME, "x"), "DNS", Pace.BACKOFF),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable", Pace.BACKOFF),
        (verification_error("unable to get local issuer certificate"), "--ca-file", Pace.SLOW),
        (verification_error("Hostname mismatch, certificate is not valid"), "another name", Pace.SLOW),
        (verification_error("certificate has expired"), "clock", Pace.SLOW),
        (ssl.SSLError(1, "wrong version number"), "right port", Pace.BACKOFF),
        (RuntimeError("surprise"), "RuntimeError: surprise", Pace.MEDIUM),
    ],
)
def test_each_failure_of_the_network_says_where_to_look(error: Exception, said: str, pace: Pace) -> None:
    ending = explain_failure(error, URL, None, 15)
    assert said in str(ending)
    assert ending.pace is pace


@pytest.mark.parametrize(
    ("url", "proxy", "firewall", "no_tls"),
    [
        ("wss://127.0.0.1:8000/a/b", None, False, True),
        (URL, None, True, True),
        (URL, "http://proxy.corp:3128", True, False),
        ("ws://127.0.0.1:8000/a/b", None, True, False),
    ],
)
def test_silence_is_put_down_to_what_can_cause_it(url: str, proxy: str | None, firewall: bool, no_tls: bool) -> None:
    text = str(explain_failure(TimeoutError(), url, proxy, 15))
    assert ("firewall" in text, "the port may speak no TLS" in text) == (firewall, no_tls)


def test_trouble_with_the_proxy_names_the_proxy_without_its_credentials() -> None:
    proxy = "http://user:hunter2@proxy.corp:3128"
    for error, said in [
        (ProxyError("HTTP proxy rejected connection with status 407"), "asks for credentials"),
        (ProxyError("HTTP proxy rejected connection with status 403"), "to allow CONNECT"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "proxy.corp:3128 refuses"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "name of the proxy proxy.corp:3128"),
    ]:
        text = str(explain_failure(error, URL, proxy, 15))
        assert said in text
        assert "proxy.corp:3128" in text
        assert "hunter2" not in text
