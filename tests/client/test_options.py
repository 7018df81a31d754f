"""Options come from flags, a file and the environment, in this order, and a bad one is told in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tunnels.client.options import ClientOptions, OptionInvalid, load_options

URL = "wss://gw.example/acmeco/prod"
ENOUGH: dict[str, Any] = {"url": URL, "token": "t0ken", "upstream": ["192.168.1.10:8080"]}


def load(flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None, **more: Any) -> ClientOptions:
    given = {name.replace("_", "-"): value for name, value in more.items()}
    return load_options({**ENOUGH, **(flags or {}), **given}, environment or {})


def refusal(**flags: Any) -> str:
    with pytest.raises(OptionInvalid) as refused:
        load(**flags)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "client.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_what_is_not_given_has_the_documented_default() -> None:
    options = load()
    assert options.tunnel == "acmeco/prod"
    assert (options.connections, options.dial_timeout, options.drain_timeout) == (1, 5.0, 30.0)
    assert (options.log_format, options.log_level, options.upstream_insecure) == ("text", "info", False)


def test_flags_win_over_the_file_and_the_file_over_the_environment(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        """
        url: wss://file.example/acmeco/prod
        token: from-file
        upstream:
          - 192.168.1.10:8080
          - "[::1]:22"
        connections: 3
        dial_timeout: 7
        upstream-insecure: true
        """,
    )
    environment = {
        "MOORLINE_URL": "wss://environment.example/acmeco/prod",
        "MOORLINE_TOKEN": "from-environment",
        "MOORLINE_UPSTREAM": "a:1 b:2",
        "MOORLINE_CONNECTIONS": "2",
        "MOORLINE_DRAIN_TIMEOUT": "9s",
    }
    options = load_options({"connections": "4"}, environment, config)
    assert options.url == "wss://file.example/acmeco/prod"
    assert options.token.read() == "from-file"
    assert len(options.upstreams.routes) == 2
    assert (options.connections, options.dial_timeout, options.drain_timeout) == (4, 7.0, 9.0)
    assert options.upstream_insecure
    assert load_options({}, environment).connections == 2


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("wss://gw.example/acmeco/prod", "wss://gw.example/acmeco/prod"),
        ("wss://gw.example:8443/acmeco/prod/", "wss://gw.example:8443/acmeco/prod"),
        ("https://GW.example/acmeco/prod", "wss://gw.example/acmeco/prod"),
        ("http://127.0.0.1:8000/acmeco/prod", "ws://127.0.0.1:8000/acmeco/prod"),
        ("ws://[::1]:8000/acmeco/prod", "ws://[::1]:8000/acmeco/prod"),
    ],
)
def test_an_address_is_understood_as_people_write_it(given: str, taken: str) -> None:
    assert load(url=given).url == taken


@pytest.mark.parametrize(
    "url",
    [
        "gw.example/acmeco/prod",
        "ftp://gw.example/acmeco/prod",
        "wss:///acmeco/prod",
        "wss://gw.example",
        "wss://gw.example/acmeco",
        "wss://gw.example/acmeco/prod/more",
        "wss://gw.example/AcmeCo/prod",
        "wss://gw.example/acme_co/prod",
        "wss://gw.example/acmeco/prod?x=1",
        "wss://gw.example:port/acmeco/prod",
        "wss://user:hunter2@gw.example/acmeco/prod",
    ],
)
def test_an_address_that_is_none_is_answered_with_its_form(url: str) -> None:
    message = refusal(url=url)
    assert message.startswith("--url: ")
    assert "wss://HOST/CUSTOMER/TUNNEL" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("url", "warned"), [("ws://gw.example/a/b", True), ("ws://localhost/a/b", False), (URL, False)]
)
def test_an_unprotected_way_is_warned_of_unless_it_stays_on_this_machine(url: str, warned: bool) -> None:
    assert any("unprotected" in warning for warning in load(url=url).warnings) is warned


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("connections", "0", "from 1 to 16"),
        ("connections", "17", "from 1 to 16"),
        ("connections", "many", "from 1 to 16"),
        ("dial-timeout", "0", "from 0.1 to 300"),
        ("dial-timeout", "nan", "from 0.1 to 300"),
        ("drain-timeout", "-1", "from 0 to 3600"),
        ("log-format", "xml", "text, json"),
        ("log-level", "loud", "debug, info, warning, error"),
        ("ca-file", "/does/not/exist.pem", "can't be read"),
        ("upstream-ca-file", "/does/not/exist.pem", "can't be read"),
        ("upstream", ["192.168.1.10"], "write for example 192.168.1.10:8080"),
        ("upstream", ["a:1", "a:1"], "given twice"),
    ],
)
def test_a_bad_value_is_named_with_its_option(name: str, value: Any, said: str) -> None:
    message = refusal(**{name: value})
    assert message.startswith(f"--{name}: ")
    assert said in message


@pytest.mark.parametrize(("url", "warned"), [("ws://127.0.0.1:8000/a/b", True), (URL, False)])
def test_a_ca_file_that_nothing_needs_is_warned_of(url: str, warned: bool) -> None:
    assert any("--ca-file changes nothing" in line for line in load(url=url, ca_file=__file__).warnings) is warned


def test_a_drain_timeout_of_zero_means_zero() -> None:
    assert load(drain_timeout="0").drain_timeout == 0


@pytest.mark.parametrize(
    ("missing", "said"),
    [("url", "--url wss://"), ("upstream", "--upstream 192.168.1.10"), ("token", "--token-file FILE")],
)
def test_what_is_missing_is_asked_for(missing: str, said: str) -> None:
    assert said in refusal(**{missing: None})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstreams: [a:1]", "unknown option 'upstreams': did you mean upstream?"),
        ("token_fiel: x", "did you mean token-file?"),
        ("colour: red", "it may hold url"),
        ("- a\n- b", "holds no options"),
        ("upstream: [::1]:22", "put quotes around"),
        ("upstream: - a:1", "is not YAML (line 1, column 11): "),
        ("upstream: *=http://a:1", "put quotes around"),
        ("upstream:\n  - [::1]:22", "put quotes around"),
        ("upstream: 8080", "8080 is not an upstream"),
        ("upstream: [22:33]", "has 22:33, which YAML reads as a number (line 1, column 12): put it in quotes"),
        ("dial-timeout: 1:30.5", "has 1:30.5, which YAML reads as a number"),
        ("upstream: a:1\nupstream: b:1", "gives upstream twice (line 2, column 1): remove one"),
        ("dial_timeout: 3\ndial-timeout: 4", "gives dial-timeout twice"),
        ("? [a]\n: 1", "is not YAML"),
        ("upstream: []", "the list is empty"),
        ("connections: true", "from 1 to 16"),
        ("upstream-insecure: perhaps", "neither true nor false"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_the_file(text: str, said: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, text)
    flags = {name: value for name, value in ENOUGH.items() if name != text.partition(":")[0]}
    with pytest.raises(OptionInvalid) as refused:
        load_options(flags, {}, config)
    assert str(config) in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["upstream: - a:1", "url: 'x", "upstream: {", "a: b: c"])
def test_quotes_are_advised_only_where_they_help(text: str, tmp_path: Path) -> None:
    with pytest.raises(OptionInvalid, match="is not YAML") as refused:
        load_options(ENOUGH, {}, write_config(tmp_path, text))
    assert "put quotes" not in str(refused.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionInvalid, match="--config: .* can't be read"):
        load_options(ENOUGH, {}, tmp_path / "none.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_options(ENOUGH, {}, write_config(tmp_path, "# nothing yet\n")).url == URL


# -- the token --------------------------------------------------------------------------------------------------------


def token_file(tmp_path: Path, content: bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def load_token(**given: Any) -> ClientOptions:
    return load(token=None, **given)


@pytest.mark.parametrize("content", [b"mt_abc", b"mt_abc\n", b" mt_abc\r\n\n"])
def test_a_token_file_may_end_in_a_new_line(content: bytes, tmp_path: Path) -> None:
    options = load_token(token_file=str(token_file(tmp_path, content)))
    assert options.token.read() == "mt_abc"
    assert options.warnings == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"mt_abc\nmt_def\n", "holds more than a token"),
        (b"two words", "holds more than a token"),
        ("mt_\u00fc".encode(), "holds more than a token"),
        (b"x" * 5000, "holds more than a token"),
    ],
)
def test_a_file_that_holds_no_token_is_told_without_its_content(content: bytes, said: str, tmp_path: Path) -> None:
    message = refusal(token=None, token_file=str(token_file(tmp_path, content)))
    assert message.startswith("--token-file: ")
    assert said in message
    assert "mt_" not in message


def test_a_missing_token_file_is_told(tmp_path: Path) -> None:
    assert "does not exist" in refusal(token=None, token_file=str(tmp_path / "none"))


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_token_file_that_others_may_read_is_warned_of(mode: int, tmp_path: Path) -> None:
    path = token_file(tmp_path, b"mt_abc", mode)
    (warning,) = load_token(token_file=str(path)).warnings
    assert f"chmod 600 {path}" in warning


def test_a_token_on_the_command_line_works_and_is_warned_of() -> None:
    options = load(token="mt_abc")
    assert options.token.read() == "mt_abc"
    assert any("process list" in warning for warning in options.warnings)
    assert "mt_abc" not in repr(options)


def test_the_environment_may_hold_the_token_or_its_file(tmp_path: Path) -> None:
    assert load_options({**ENOUGH, "token": None}, {"MOORLINE_TOKEN": "mt_abc"}).token.read() == "mt_abc"
    path = token_file(tmp_path, b"mt_def")
    assert load_options({**ENOUGH, "token": None}, {"MOORLINE_TOKEN_FILE": str(path)}).token.read() == "mt_def"
    flag = {**ENOUGH, "token": None, "token-file": str(path)}
    assert load_options(flag, {"MOORLINE_TOKEN": "mt_abc"}).token.read() == "mt_def"


def test_two_tokens_in_one_place_are_refused(tmp_path: Path) -> None:
    assert "remove one" in refusal(token_file=str(token_file(tmp_path, b"mt_abc")))


def test_a_token_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = token_file(tmp_path, b"mt_old")
    source = load_token(token_file=str(path)).token
    assert source.read() == "mt_old"
    path.write_bytes(b"mt_new")
    assert source.read() == "mt_new"
