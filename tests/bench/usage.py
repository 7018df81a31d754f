"""What a process has used, as Linux counts it in /proc."""

import os
import re
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def read_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process since it began, in user space and in the kernel, in seconds."""
    return parse_cpu_ticks(Path(f"/proc/{pid}/stat").read_text()) / TICKS_PER_SECOND


def parse_cpu_ticks(stat: str) -> int:
    """Add up utime and stime, fields 14 and 15 of proc(5)'s ``/proc/pid/stat``."""
    # The name of the program is in parentheses and may hold spaces and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def reset_peak_rss(pid: int) -> None:
    """Let the peak of a process's resident memory begin again where it is now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def read_peak_rss(pid: int) -> int:
    """Return the peak of a process's resident memory in bytes (VmHWM)."""
    return parse_peak_rss(Path(f"/proc/{pid}/status").read_text())


def parse_peak_rss(status: str) -> int:
    """Find VmHWM, which is in KiB, in ``/proc/pid/status``; return bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise ValueError("no VmHWM in the status of a process")
    return int(found[1]) * 1024
