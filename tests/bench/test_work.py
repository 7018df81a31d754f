"""What is read from the programs that measure."""

import json

import pytest

from quickstart.errors import StartFailed
from tests.bench.work import WORKS, Sample

UP, DOWN, HTTP_1, HTTP_32 = WORKS

WRK = """Running 1s test @ http://127.0.0.1:8080/
  1 threads and 1 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    20.08us   13.09us 821.00us   96.51%
    Req/Sec    49.91k     2.52k   52.40k    90.00%
  50000 requests in 1.00s, 12.64MB read
Requests/sec:  49598.12
Transfer/sec:     12.53MB
"""


def test_bulk_counts_what_was_received():
    received = {"bytes": 3_000_000_000, "bits_per_second": 12e9}
    output = {"end": {"sum_sent": {"bytes": 9_000_000_000, "bits_per_second": 36e9}, "sum_received": received}}
    assert UP.parse(json.dumps(output)) == Sample(rate=1.5, amount=3.0)


def test_bulk_tells_what_iperf3_complains_about():
    with pytest.raises(StartFailed, match="bulk_up: iperf3 says: the server is busy"):
        UP.parse('{"start": {}, "error": "the server is busy"}')


def test_only_bulk_down_is_reversed():
    assert ["--reverse" in work.command(1, 1).arguments for work in (UP, DOWN)] == [False, True]


def test_http_reads_rate_and_count():
    assert HTTP_1.parse(WRK) == Sample(rate=49598.12, amount=0.5)


@pytest.mark.parametrize(
    "trouble", ["  Socket errors: connect 0, read 3, write 0, timeout 0", "  Non-2xx or 3xx responses: 7"]
)
def test_http_with_errors_is_no_figure(trouble):
    with pytest.raises(StartFailed, match=trouble.strip()):
        HTTP_32.parse(WRK.replace("Requests/sec", f"{trouble}\nRequests/sec"))


def test_http_without_a_figure_fails():
    with pytest.raises(StartFailed, match="nothing"):
        HTTP_32.parse("unable to connect to 127.0.0.1:8080 Connection refused")


def test_http_32_has_32_connections():
    words = list(HTTP_32.command(8080, 2).arguments)
    assert words[words.index("--connections") + 1] == "32"
