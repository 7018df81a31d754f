"""Medians, ratios, and how they are shown."""

import json

import pytest

from tests.bench.measure import Run
from tests.bench.report import format_table, make_document, make_results
from tests.bench.work import WORKS, Sample

BULK, HTTP = WORKS[0], WORKS[2]


def runs_of(*rates, cpu=(), rss=()):
    """Runs of 2 GB each, with what one process in between used for them."""
    runs = [Run(Sample(rate, 2.0)) for rate in rates]
    for run, seconds in zip(runs, cpu, strict=False):
        run.cpu_seconds = {"gateway": seconds}
    for run, size in zip(runs, rss, strict=False):
        run.peak_rss_bytes = {"gateway": size}
    return runs


@pytest.fixture
def results():
    runs = {
        (BULK.name, "direct"): runs_of(9.0, 8.0, 1.0),
        (BULK.name, "haproxy_pair"): runs_of(2.0, 4.0, 100.0),
        (BULK.name, "moorline"): runs_of(3.0, 2.0, 2.5, cpu=(1.0, 3.0, 4.0), rss=(7, 9, 8)),
    }
    return {result.path: result for result in make_results(runs, [BULK])}


def test_one_run_that_went_wrong_does_not_move_a_median(results):
    assert [results[path].median for path in ("direct", "haproxy_pair", "moorline")] == [8.0, 4.0, 2.5]


def test_ratios_are_between_medians(results):
    assert (results["moorline"].ratio_to_direct, results["moorline"].ratio_to_haproxy_pair) == (2.5 / 8, 2.5 / 4)
    assert (results["haproxy_pair"].ratio_to_direct, results["direct"].ratio_to_haproxy_pair) == (0.5, 2.0)


def test_a_ratio_to_what_was_not_measured_is_left_out():
    [result] = make_results({(HTTP.name, "moorline"): runs_of(5.0)}, [HTTP])
    assert result.ratio_to_direct is result.ratio_to_haproxy_pair is None
    assert "None" not in format_table([result])


def test_cpu_time_is_told_for_what_was_moved(results):
    assert results["moorline"].cpu_seconds == {"gateway": 1.5}
    assert results["direct"].cpu_seconds == {}


def test_the_peak_of_memory_is_that_of_the_worst_run(results):
    assert results["moorline"].peak_rss_bytes == {"gateway": 9}


def test_the_table_is_aligned(results):
    lines = format_table(list(results.values())).splitlines()
    assert len(lines) == 4
    column = lines[0].index("path")
    assert [line[column:].split()[0] for line in lines] == ["path", "direct", "haproxy_pair", "moorline"]
    assert len({line.index("GB/s") for line in lines[1:]}) == 1


def test_works_are_set_apart_in_the_table():
    runs = {(BULK.name, "direct"): runs_of(1.0), (HTTP.name, "direct"): runs_of(12345.6)}
    heading, bulk, between, http = format_table(make_results(runs, [BULK, HTTP])).splitlines()
    assert between == ""
    assert http.split()[:4] == ["http_1", "direct", "12,346", "requests/s"]


def test_the_document_is_json_with_the_machine_and_every_result(results):
    document = json.loads(json.dumps(make_document({"cores": 2}, list(results.values()))))
    assert document["machine"] == {"cores": 2}
    assert [result["path"] for result in document["results"]] == ["direct", "haproxy_pair", "moorline"]
    assert document["results"][2]["peak_rss_bytes"] == {"gateway": 9}
