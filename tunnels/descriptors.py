"""Open files: every stream takes one at each end, and the usual limit of a process is 1,024."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

WANTED_FILES: Final = 65536


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it, up to WANTED_FILES."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - there is none on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if 0 <= soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
