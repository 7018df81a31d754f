"""The ``moorline`` command: its sub-commands, and errors as one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from .. import __version__
from .client import client
from .once import OnceCommand

app = typer.Typer(
    name="moorline",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("client", cls=OnceCommand)(client)


@app.callback(invoke_without_command=True)
def moorline(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """A private line into each customer's network."""
    if version:
        typer.echo(f"moorline {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run the command line; leave with its exit code."""
    try:
        code = app(standalone_mode=False, prog_name="moorline")
    except TyperException as error:
        message = " ".join(error.format_message().split())
        typer.echo(f"moorline: {message} (moorline client --help lists every option)", err=True)
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    sys.exit(code or 0)
