"""The portal on PostgreSQL: what the other tests promise, promised there as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .postgres import run_postgres

HERE = Path(__file__).parent
# What has to do with rows, constraints, transactions and locks; pages are the same on every database.
FILES = [
    *("test_authorization.py", "test_concurrency.py", "test_gateways.py", "test_models.py", "test_ports.py"),
    *("test_services.py", "test_sessions.py", "../cluster/test_resources.py", "../cluster/test_work.py"),
]


@pytest.mark.timeout(240)
def test_rows_and_locks_are_as_on_sqlite() -> None:
    with run_postgres() as url:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *(HERE / name for name in FILES)],
            cwd=HERE.parents[1],
            env=os.environ | {"TEST_DATABASE_URL": url},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
