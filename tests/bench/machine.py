"""The machine that the figures are from."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

GIB = 1024**3
LIBRARIES = ("uvloop", "picows")


def describe_machine() -> dict[str, str | int | float]:
    """Say what bears on the figures: cores, CPU, memory, kernel, Python and the libraries on the way of a byte."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model[1] if model else platform.machine(),
        "memory_gib": round(memory / GIB, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
