"""``python -m quickstart``: what the Makefile calls."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from quickstart import up
from quickstart.checks import psql_command
from quickstart.errors import StartFailed
from quickstart.identity import run_identity
from quickstart.postgres import remove_site
from quickstart.settings import CHECKOUT, read_settings
from quickstart.state import State


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m quickstart", description="Everything of Moorline on one laptop.")
    parser.add_argument("--state", type=Path, default=CHECKOUT / ".moorline", help="where everything is kept")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start everything and run until Ctrl-C")
    commands.add_parser("clean", help="remove what `up` keeps")
    commands.add_parser("psql", help="open psql through the tunnel; what follows is for psql")
    identity = commands.add_parser("identity", help="run one of the example site's HTTP services")
    identity.add_argument("service")
    identity.add_argument("port", type=int)
    own = arguments.index("psql") + 1 if "psql" in arguments else len(arguments)
    options = parser.parse_args(arguments[:own])
    try:
        match options.command:
            case "up":
                return up.run_up(read_settings(), State(options.state))
            case "psql":
                return run_psql(State(options.state), arguments[own:])
            case "clean":
                return clean(State(options.state))
            case _:
                return run_identity(options.service, options.port)
    except StartFailed as error:
        print(error, *filter(None, [error.detail]), sep="\n", file=sys.stderr)
        return 1


def run_psql(state: State, words: list[str]) -> int:
    """Become psql, connected through the tunnel of the ``make up`` that runs here."""
    ports = state.running_ports()
    if not ports:
        raise StartFailed("Nothing runs here: start it with make up in another terminal.")
    command = [os.fspath(word) for word in psql_command(ports["tcp_port"], *words).arguments]
    os.environ.setdefault("PGSSLMODE", "require")
    sys.stdout.flush()
    os.execv(command[0], command)


def clean(state: State) -> int:
    """Remove what ``make up`` keeps."""
    with state.locked({}):
        remove_site(state)
        shutil.rmtree(state.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
