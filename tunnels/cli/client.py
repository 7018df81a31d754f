"""``moorline client``: join services of this network to a tunnel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..client.client import EXIT_USAGE, run_client
from ..client.options import OptionInvalid, load_options
from ..logs import configure_logs

_GATEWAY = "The gateway"
_UPSTREAMS = "Upstreams: what the tunnel reaches here"
_RUNNING = "Running"

_UPSTREAM_HELP = """What to forward to; repeat it for each.
192.168.1.10:8080 serves port 8080, 2222=192.168.1.10:22 serves port 2222,
http://127.0.0.1:8080 serves every HTTP host name, identity1.local=https://192.168.1.10 that one.
A port or host name given twice is balanced."""


def client(  # noqa: PLR0917 - Typer reads the options from the arguments
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the tunnel is: wss://HOST/CUSTOMER/TUNNEL.", rich_help_panel=_GATEWAY),
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="File with the token. Or set MOORLINE_TOKEN.", rich_help_panel=_GATEWAY),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="The token itself; it shows in the process list.", rich_help_panel=_GATEWAY),
    ] = None,
    connections: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Sessions to hold at a time, 1 to 16; 1 if not given.", rich_help_panel=_GATEWAY
        ),
    ] = None,
    ca_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Trust the CAs in this PEM file for the gateway, instead of the system's.",
            rich_help_panel=_GATEWAY,
        ),
    ] = None,
    upstream: Annotated[
        list[str] | None, typer.Option(metavar="UPSTREAM", help=_UPSTREAM_HELP, rich_help_panel=_UPSTREAMS)
    ] = None,
    upstream_ca_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Trust the CAs in this PEM file for https upstreams, instead of the system's.",
            rich_help_panel=_UPSTREAMS,
        ),
    ] = None,
    upstream_insecure: Annotated[
        bool | None,
        typer.Option(
            "--upstream-insecure", help="Do not check certificates of https upstreams.", rich_help_panel=_UPSTREAMS
        ),
    ] = None,
    dial_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS",
            help="How long an upstream may take to answer; 5 if not given.",
            rich_help_panel=_UPSTREAMS,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file with these options; flags win over it.", rich_help_panel=_RUNNING),
    ] = None,
    drain_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS",
            help="How long open connections may take at a stop; 30 if not given.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            metavar="text|json", help="For people (if not given), or one object a line.", rich_help_panel=_RUNNING
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            metavar="debug|info|warning|error",
            help="The least that is written; info if not given.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
) -> int:
    """Join services of this network to a tunnel, and keep the line for ever.

    Every option can stand in the --config file and in the environment (MOORLINE_DIAL_TIMEOUT for --dial-timeout).
    HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are honoured.
    """
    flags = {
        "url": url,
        "token-file": token_file,
        "token": token,
        "connections": connections,
        "ca-file": ca_file,
        "upstream": upstream,
        "upstream-ca-file": upstream_ca_file,
        "upstream-insecure": upstream_insecure,
        "dial-timeout": dial_timeout,
        "drain-timeout": drain_timeout,
        "log-format": log_format,
        "log-level": log_level,
    }
    try:
        options = load_options(flags, os.environ, config)
        configure_logs(options.log_format, options.log_level)
        return run_client(options)
    except OptionInvalid as error:
        typer.echo(f"moorline client: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from None
