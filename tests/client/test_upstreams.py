"""Upstreams are read from what people write, and a mistake is answered with the right form."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.client.upstreams import Route, Upstream, UpstreamError, UpstreamTable, parse_upstream
from tunnels.protocol import MAX_DATA, Exposure, Hello, Target
from tunnels.protocol.frames import pack_hello

UNDERSTOOD = {
    "192.168.1.10:8080": Upstream(Route(8080), "192.168.1.10", 8080),
    " 192.168.1.10:8080 ": Upstream(Route(8080), "192.168.1.10", 8080),
    "2222=192.168.1.10:22": Upstream(Route(2222), "192.168.1.10", 22),
    "postgres-prod:25060": Upstream(Route(25060), "postgres-prod", 25060),
    "Postgres.Internal.:5432": Upstream(Route(5432), "postgres.internal", 5432),
    "[::1]:22": Upstream(Route(22), "::1", 22),
    "2222=[FD00::0:10]:22": Upstream(Route(2222), "fd00::10", 22),
    "http://127.0.0.1:8080": Upstream(Route(host="*"), "127.0.0.1", 8080),
    "http://127.0.0.1": Upstream(Route(host="*"), "127.0.0.1", 80),
    "http://[::1]:8080/": Upstream(Route(host="*"), "::1", 8080),
    "*=http://127.0.0.1:8080": Upstream(Route(host="*"), "127.0.0.1", 8080),
    "https://Intranet.example": Upstream(Route(host="*"), "intranet.example", 443, True, "intranet.example"),
    "identity1.local=https://192.168.1.10:443": Upstream(
        Route(host="identity1.local"), "192.168.1.10", 443, True, "identity1.local"
    ),
    "Identity1.Local=http://web:81": Upstream(Route(host="identity1.local"), "web", 81),
}

REFUSED = {
    "": "empty",
    "192.168.1.10": "write for example 192.168.1.10:8080",
    "8080": "write for example 127.0.0.1:8080",
    ":8080": "write for example 127.0.0.1:8080",
    "2222=192.168.1.10": "write for example 2222=192.168.1.10:8080",
    "192.168.1.10:": "is not a port",
    "192.168.1.10:0": "from 1 to 65535",
    "192.168.1.10:65536": "from 1 to 65535",
    "192.168.1.10:http": "is not a port",
    "0=192.168.1.10:22": "from 1 to 65535",
    "70000=192.168.1.10:22": "from 1 to 65535",
    "::1:22": "has no port that can be told from the address",
    "[::1]": "has no port that can be told from the address: write for example [::1]:22",
    "[::g]:22": "is not an IPv6 address",
    "192.168.1.300:22": "is not an IPv4 address",
    "1.2.3:22": "is not an IPv4 address",
    "post gres:22": "repeat --upstream for each",
    "a:1,b:2": "repeat --upstream for each",
    "-a:22": "neither an address nor a host name",
    "identity1.local=192.168.1.10:443": "write for example identity1.local=http://192.168.1.10:443",
    "8080=http://192.168.1.10:80": "write for example 8080=192.168.1.10:80",
    "tcp://192.168.1.10:22": "tcp:// is not known, and plain TCP has no scheme: write for example 192.168.1.10:22",
    "http://192.168.1.10:80/path": "has a path, and what a request asks for is not changed on the way",
    "http://192.168.1.10:80?x=1": "has a query",
    "http://": "has no host",
    "http://192.168.1.10:99999": "has a port or an address that is none",
    "http://192.168.1.10:0": "port 0",
    "bad_host!=http://192.168.1.10": "is not a host name",
    "host:80=http://192.168.1.10": "is not a host name",
    "0": "write for example 192.168.1.10:8080",
    "2222=0": "write for example 2222=192.168.1.10:8080",
    "99999": "write for example 192.168.1.10:8080",
    "=h:1": "has nothing before the =: write for example h:1",
    "=": "has nothing before the =",
    "a=": "has nothing after the =: write for example a=http://192.168.1.10:8080",
    "22=": "has nothing after the =: write for example 22=192.168.1.10:8080",
    "h:22:33": "write for example h:22",
    "2222:192.168.1.10:22": "write for example 2222=192.168.1.10:22",
    "fd00::1:22": "write for example [fd00::1]:22",
    "2222=fd00::1": "write for example 2222=[fd00::1]:22",
    "http://h:1?x": "has a query, and what a request asks for is not changed on the way: write for example http://h:1",
    "http://h:1#x": "has a fragment",
    "web.local=https://h/x": "write for example web.local=https://h",
    "web.local=ftp://h": "write for example web.local=http://192.168.1.10:8080",
    "8080=https://-": "write for example 8080=192.168.1.10:8080",
    "-=h:1": "write for example identity1.local=http://192.168.1.10:8080",
    "²=h:1": "write for example identity1.local=http://192.168.1.10:8080",
    "²:²": "neither an address nor a host name",
    "h:" + "9" * 5000: "is not a port",
    "-:x": "neither an address nor a host name",
    "x:y:z": "write for example 192.168.1.10:8080",
    "http://-": "write for example http://192.168.1.10:8080",
    "http://[::g]": "has a port or an address that is none",
    "http://admin:hunter2@192.168.1.10": "no user name or password",
}


@pytest.mark.parametrize(("text", "upstream"), UNDERSTOOD.items())
def test_every_form_is_understood(text: str, upstream: Upstream) -> None:
    assert parse_upstream(text) == upstream


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_every_mistake_is_answered_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(UpstreamError) as refusal:
        parse_upstream(text)
    assert message in str(refusal.value)
    assert parse_upstream(str(refusal.value).rpartition("write for example ")[2])  # the form offered is one itself
    assert "\n" not in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


PARTS = ("", "0", "22", "70000", "h", "-", ":", "=", "::", "[", "]", "fd00::1", "http://", "ftp://", "/", "?", ",", "*")


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
def test_whatever_is_written_is_read_or_answered_with_a_form_that_can_be(text: str) -> None:
    with contextlib.suppress(UpstreamError):
        parse_upstream(text)
        return
    with pytest.raises(UpstreamError) as refusal:
        parse_upstream(text)
    assert parse_upstream(str(refusal.value).rpartition("write for example ")[2])


def table(*texts: str) -> UpstreamTable:
    return UpstreamTable(map(parse_upstream, texts))


def test_a_host_goes_to_its_own_upstream_before_the_one_for_any() -> None:
    found = table("8080=a:1", "web.local=http://b:2", "http://c:3")
    assert found.find_route(Target(8080)) == Route(8080)
    assert found.find_route(Target(9000, "WEB.local.")) == Route(host="web.local")
    assert found.find_route(Target(9000, "other.local")) == Route(host="*")
    assert found.find_route(Target(9000)) is None
    assert table("web.local=http://b:2").find_route(Target(9000, "other.local")) is None


CALLED = ("web", "web.acmeco", "WEB.acmeco.svc", "web.acmeco.svc.cluster.local", "web.acmeco.svc.cluster.local.")


@pytest.mark.parametrize("configured", CALLED)
@pytest.mark.parametrize("called", CALLED)
def test_a_service_is_found_by_each_of_its_names(configured: str, called: str) -> None:
    found = UpstreamTable([parse_upstream(f"{configured}=http://b:2"), parse_upstream("http://c:3")], "acmeco")
    assert found.find_route(Target(8000, called)) == Route(host=configured.lower().rstrip("."))


@pytest.mark.parametrize("called", ["web-local", "web-local.acmeco", "web-local.acmeco.svc.cluster.local", "web.local"])
def test_the_service_of_a_name_with_dots_has_hyphens(called: str) -> None:
    found = UpstreamTable([parse_upstream("web.local=http://b:2")], "acmeco")
    assert found.find_route(Target(8000, called)) == Route(host="web.local")


@pytest.mark.parametrize(
    "called",
    [
        "web.globex",
        "web.acmeco.example",
        "a.web.acmeco",
        "acmeco",
        "web.acmeco.pod.cluster.local",
        "local",
        "web-local.x",
    ],
)
def test_what_only_looks_like_a_service_is_none(called: str) -> None:
    found = UpstreamTable([parse_upstream("web=http://b:2"), parse_upstream("web.local=http://b:2")], "acmeco")
    assert found.find_route(Target(8000, called)) is None


def test_the_name_as_it_is_comes_before_the_service() -> None:
    texts = ["web.local=http://a:1", "web-local=http://b:2", "web.acmeco=http://c:3", "web=http://d:4"]
    found = UpstreamTable(map(parse_upstream, texts), "acmeco")
    assert found.find_route(Target(8000, "web-local.acmeco")) == Route(host="web-local")
    for host in ("web.local", "web-local", "web.acmeco", "web"):
        assert found.find_route(Target(8000, host)) == Route(host=host)


def test_a_service_counts_as_served_and_as_exposed() -> None:
    found = UpstreamTable(map(parse_upstream, ["web.acmeco=http://a:1", "shop-local=http://b:2"]), "acmeco")
    exposure = Exposure("acmeco", "prod", (), ("web", "shop.local"))
    assert (found.missing_options(exposure), found.unused_routes(exposure)) == ([], [])


def test_upstreams_of_one_port_are_kept_together_and_the_same_one_twice_is_refused() -> None:
    found = table("8080=a:1", "8080=b:1", "a.local=http://a:1", "A.local=https://b:1")
    assert [str(upstream) for upstream in found.routes[Route(8080)]] == ["a:1", "b:1"]
    assert len(found.routes[Route(host="a.local")]) == 2
    with pytest.raises(UpstreamError, match=r"a:1 is given twice for port 8080"):
        table("8080=a:1", "8080=a:1")


def test_all_that_a_client_may_serve_fits_into_one_frame() -> None:
    names = [f"{n:03}.{'.'.join(['x' * 61] * 4)[:249]}=http://a:1" for n in range(200)]
    assert len(pack_hello(Hello(exposure=table(*names).exposure))) < MAX_DATA
    with pytest.raises(UpstreamError, match="201 different ports and host names: a client serves 200 at most"):
        table(*names, "a:1")


def test_the_gateway_is_told_ports_and_names_and_no_addresses() -> None:
    exposure = table("2222=10.9.8.7:22", "8080=a:1", "8080=b:1", "web.local=http://10.9.8.7", "http://c:3").exposure
    assert exposure == Exposure(tcp_ports=(2222, 8080), hosts=("web.local",), any_host=True)


def test_what_the_tunnel_and_the_client_have_not_in_common_is_found() -> None:
    found = table("8080=a:1", "web.local=http://b:2")
    exposure = Exposure("acmeco", "prod", (5432, 8080), ("WEB.local", "shop.local"))
    assert found.missing_options(exposure) == [
        ("port 5432", "--upstream 5432=HOST:PORT"),
        ("host shop.local", "--upstream shop.local=http://HOST:PORT"),
    ]
    assert found.unused_routes(exposure) == []
    assert found.unused_routes(Exposure("acmeco", "prod")) == [Route(8080), Route(host="web.local")]
    assert table("http://c:3").missing_options(Exposure(hosts=("shop.local",))) == []
