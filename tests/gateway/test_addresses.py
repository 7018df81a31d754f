"""Where a client comes from, past proxies that are trusted and headers that are not."""

from __future__ import annotations

import pytest

from tunnels.gateway.addresses import client_address, parse_networks

TRUSTED = parse_networks("10.0.0.0/8, fe80::/10")


def test_the_last_address_no_trusted_proxy_wrote_counts() -> None:
    headers = [(b"x-forwarded-for", b"192.0.2.1, 198.51.100.7, 10.0.0.2")]
    assert client_address("10.0.0.1", headers, TRUSTED) == "198.51.100.7"


@pytest.mark.parametrize(
    "text",
    [b"fe80::1%eth0", b"2001:db8::1%", b"2001:db8::1%\x1b[31m forged", b"2001:db8::1%a\xe9", b"[2001:db8::1%1]", b"me"],
)
def test_what_is_no_plain_address_counts_for_nothing(text: bytes) -> None:
    headers = [(b"x-forwarded-for", b"192.0.2.1, " + text + b", 10.0.0.2")]
    assert client_address("10.0.0.1", headers, TRUSTED) == "10.0.0.2"
