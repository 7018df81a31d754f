"""What a process has used."""

import os
import sys

import pytest

from tests.bench.usage import parse_cpu_ticks, parse_peak_rss, read_cpu_seconds, read_peak_rss

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_cpu_time_is_that_of_the_process_itself_in_user_space_and_kernel():
    assert parse_cpu_ticks("42 (moorline) S 1 42 42 0 -1 4194304 1 2 3 4 70 30 900 800 20 0 1 0 5 6 7") == 100


def test_cpu_time_is_found_behind_a_name_with_parentheses_and_spaces():
    assert parse_cpu_ticks("42 (a) b (c) S 1 42 42 0 -1 4194304 1 2 3 4 70 30 900 800 20 0") == 100


def test_the_peak_of_memory_is_in_bytes():
    assert parse_peak_rss("Name:\tx\nVmPeak:\t  90 kB\nVmHWM:\t   12 kB\nVmRSS:\t 11 kB\n") == 12 * 1024


def test_a_process_that_ended_has_no_peak():
    with pytest.raises(ValueError, match="VmHWM"):
        parse_peak_rss("Name:\tx\nState:\tZ (zombie)\n")


@on_linux
def test_a_process_can_be_asked():
    assert read_cpu_seconds(os.getpid()) > 0
    assert read_peak_rss(os.getpid()) > 1024 * 1024
