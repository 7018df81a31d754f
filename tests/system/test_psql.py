"""psql through the tunnel prod of customer acmeco, port 25060."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from quickstart.certificates import write_certificate

from .installation import Installation
from .programs import MEGABYTE
from .psql import connect, run_psql

ROWS = 100_000  # of 1,056 bytes each


@pytest.fixture
def port(installation: Installation) -> int:
    """Where the gateway listens for port 25060 of acmeco/prod."""
    return installation.settings.tcp_port


async def test_a_query_is_answered(port: int) -> None:
    assert await run_psql(port, "-c", "SELECT account FROM open_invoices WHERE id = 2605") == "Cooperativa del Puerto"


async def test_tls_goes_from_psql_to_the_customers_own_server(
    installation: Installation, port: int, tmp_path: Path
) -> None:
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert await run_psql(port, "-c", encrypted, PGSSLMODE="require") == "t"
    assert await run_psql(port, "-c", encrypted, PGSSLMODE="disable") == "f"
    # Only who holds the key of the customer's certificate can be at the other end.
    theirs = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(installation.postgres.certificate)}
    assert await run_psql(port, "-c", encrypted, **theirs) == "t"
    write_certificate(tmp_path / "other.crt", tmp_path / "other.key", ["postgres.acmeco.example"])
    with pytest.raises(AssertionError, match="certificate verify failed"):
        await run_psql(port, "-c", encrypted, **theirs | {"PGSSLROOTCERT": str(tmp_path / "other.crt")})


@pytest.mark.timeout(120)
async def test_a_copy_of_100_mb_out_and_in_is_equal_to_the_byte(port: int, tmp_path: Path) -> None:
    row = "i, repeat(md5(i::text), 33) AS payload"
    make = f"CREATE UNLOGGED TABLE bulk AS SELECT {row} FROM generate_series(1, {ROWS}) i"
    digest = "SELECT md5(string_agg(md5(payload), '' ORDER BY i)) FROM "
    file = tmp_path / "bulk"
    try:
        await run_psql(port, "-c", make, "-c", "CREATE UNLOGGED TABLE back (LIKE bulk)")
        await run_psql(port, "-c", f"\\copy bulk TO '{file}'", PGSSLMODE="require")
        assert file.stat().st_size > 100 * MEGABYTE
        rows = sorted((int(number), payload) for number, payload in map(str.split, file.read_text().splitlines()))
        digests = "".join(hashlib.md5(payload.encode()).hexdigest() for _, payload in rows)
        assert await run_psql(port, "-c", digest + "bulk") == hashlib.md5(digests.encode()).hexdigest()
        await run_psql(port, "-c", f"\\copy back FROM '{file}'", PGSSLMODE="require")
        assert await run_psql(port, "-c", digest + "back") == hashlib.md5(digests.encode()).hexdigest()
    finally:
        await run_psql(port, "-c", "DROP TABLE IF EXISTS bulk, back")


async def test_a_notification_reaches_who_listens(port: int) -> None:
    async with await connect(port) as listener, await connect(port) as speaker:
        await listener.execute("LISTEN ships")
        await speaker.execute("SELECT pg_notify('ships', 'the tide is in')")
        async with asyncio.timeout(10):
            heard = [notice.payload async for notice in listener.notifies(stop_after=1)]
    assert heard == ["the tide is in"]
