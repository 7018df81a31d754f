"""Programs of the system that wider tests run beside Moorline."""

import os
import shutil

import pytest


def find_program(name: str) -> str | None:
    """Return the path of a program on PATH or among the administrator's; None where there is none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def require_program(name: str) -> str:
    """Return the path of a program on PATH; skip the test where there is none.

    With MOORLINE_REQUIRE_ALL set, as .ci/run does, the test fails instead: no tier is left out unnoticed.
    """
    path = find_program(name)
    if path is not None:
        return path
    missing = f"{name} is not installed: apt-get install {name}"
    if os.environ.get("MOORLINE_REQUIRE_ALL"):
        pytest.fail(missing)
    pytest.skip(missing)
