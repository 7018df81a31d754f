"""What the command line and BENCH_SECONDS say."""

import pytest

from tests.bench import __main__ as bench


def test_everything_is_measured_unless_said_otherwise():
    options = bench.read_options([], {})
    assert (options.seconds, options.rounds) == (bench.DEFAULT_SECONDS, 3)
    assert [work.name for work in options.works] == ["bulk_up", "bulk_down", "http_1", "http_32"]
    assert options.paths == ["direct", "haproxy_pair", "moorline"]


def test_the_default_measures_for_less_than_four_minutes():
    options = bench.read_options([], {})
    assert options.seconds * options.rounds * len(options.works) * len(options.paths) < 240


def test_a_part_can_be_chosen():
    options = bench.read_options(["--work", "http_1", "--path", "moorline", "--rounds", "1"], {"BENCH_SECONDS": "2"})
    assert ([work.name for work in options.works], options.paths) == (["http_1"], ["moorline"])
    assert (options.seconds, options.rounds) == (2, 1)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "ten", "601", "²"])
def test_a_length_that_is_none_is_refused_with_what_to_set(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench.read_options([], {"BENCH_SECONDS": text})
    assert "BENCH_SECONDS" in capsys.readouterr().err


def test_missing_programs_are_one_line_that_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(bench, "find_program", lambda name: None if name in ("wrk", "nginx") else name)
    monkeypatch.setattr("sys.argv", ["tests.bench"])
    assert bench.main() == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("apt-get install nginx-light wrk")
