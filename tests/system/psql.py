"""psql and psycopg, as an application of the cluster uses them: through the tunnel."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import psycopg

from quickstart.checks import psql_command
from quickstart.ports import LOOPBACK
from quickstart.postgres import ROLE
from quickstart.settings import DATABASE


async def run_psql(port: int, *words: str, bound: float = 50.0, **variables: str) -> str:
    """Run psql with *words* and the environment *variables*; return what it prints. Raises AssertionError with its
    message where it fails."""
    options = ("--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--quiet", "--set=ON_ERROR_STOP=1")
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PGCONNECT_TIMEOUT": "10", **variables}
    process = await asyncio.create_subprocess_exec(
        *psql_command(port, *options, *words).arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(bound):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


async def connect(port: int, **options: Any) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """Connect with TLS."""
    return await psycopg.AsyncConnection.connect(
        host=LOOPBACK, port=port, user=ROLE, dbname=DATABASE, sslmode="require", autocommit=True, connect_timeout=10,
        **options,
    )  # fmt: skip
