"""Programs of the system that wider tests run beside Moorline."""

import os
import shutil

import pytest


def require_program(name: str) -> str:
    """Return the path of a program on PATH; skip the test where there is none.

    With MOORLINE_REQUIRE_ALL set, as .ci/run does, the test fails instead: no tier is left out unnoticed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is not None:
        return path
    missing = f"{name} is not installed: apt-get install {name}"
    if os.environ.get("MOORLINE_REQUIRE_ALL"):
        pytest.fail(missing)
    pytest.skip(missing)
