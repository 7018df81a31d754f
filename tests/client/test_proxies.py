"""The proxy variables mean here what they mean to everybody."""

from __future__ import annotations

import pytest

from tunnels.client.proxies import ProxyInvalid, find_proxy, is_exempt, name_proxy, read_proxies

PROXIES = {"http": "http://plain:3128", "https": "http://secure:3128", "all": "socks5://all:1080"}


@pytest.mark.parametrize(
    ("url", "proxies", "found"),
    [
        ("wss://gw.example/a/b", PROXIES, "http://secure:3128"),
        ("ws://gw.example/a/b", PROXIES, "http://plain:3128"),
        ("wss://gw.example/a/b", {"http": "http://plain:3128"}, None),
        ("wss://gw.example/a/b", {"all": "socks5h://all:1080"}, "socks5://all:1080"),
        ("ws://gw.example/a/b", {"all": "proxy.corp:3128"}, "http://proxy.corp:3128"),
        ("wss://gw.example/a/b", PROXIES | {"no": "gw.example"}, None),
        ("wss://gw.example/a/b", {"https": ""}, None),
        ("wss://gw.example/a/b", {}, None),
    ],
)
def test_each_scheme_takes_its_proxy(url: str, proxies: dict[str, str], found: str | None) -> None:
    assert find_proxy(url, proxies) == found


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY"])
def test_variables_count_in_lower_and_in_upper_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://proxy:3128")
    assert find_proxy("wss://gw.example/a/b", read_proxies()) == "http://proxy:3128"


@pytest.mark.parametrize(
    ("host", "no_proxy", "exempt"),
    [
        ("gw.example", "*", True),
        ("gw.example", "gw.example", True),
        ("GW.Example", "gw.example", True),
        ("eu.gw.example", "gw.example", True),
        ("eu.gw.example", ".gw.example", True),
        ("eu.gw.example", "*.gw.example", True),
        ("notgw.example", "gw.example", False),
        ("gw.example", "localhost, 127.0.0.1,gw.example", True),
        ("gw.example", "localhost 127.0.0.1", False),
        ("gw.example", "gw.example:443", True),
        ("gw.example", "gw.example:8443", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "[fd00::1]:443", True),
        ("gw.example", "10.0.0.0/8", False),
        ("10.1.2.3", "2.3", False),
        ("gw.example", "", False),
        ("gw.example", ".", False),
    ],
)
def test_no_proxy_knows_names_addresses_and_networks(host: str, no_proxy: str, exempt: bool) -> None:
    assert is_exempt(host, 443, no_proxy) is exempt


@pytest.mark.parametrize("proxy", ["http://u:hunter2@:99", "http://u:hunter2@proxy:port", "ftp://u:hunter2@proxy:21"])
def test_a_proxy_that_is_none_is_named_by_its_variable_alone(proxy: str) -> None:
    with pytest.raises(ProxyInvalid) as refusal:
        find_proxy("wss://gw.example/a/b", {"https": proxy})
    assert "HTTPS_PROXY" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_messages_name_a_proxy_without_its_credentials() -> None:
    assert name_proxy("http://user:hunter2@proxy.corp:3128") == "proxy.corp:3128"
    assert name_proxy("http://user:hunter2@[fd00::1]:3128") == "[fd00::1]:3128"
