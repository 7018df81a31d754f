"""``manage.py serve``: run the portal, a gateway, or both in one Daphne process."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError


def read_port(text: str) -> int:
    """Read a port number; 0 takes a free one."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise ArgumentTypeError(f"{text!r} is not a port; write a whole number from 1 to 65535")
    return int(text)


class Command(BaseCommand):
    help = "Serve the portal, a gateway, or both, until SIGTERM; then drain and stop."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--role", choices=["portal", "gateway", "all"], default="all", help="what to serve")
        parser.add_argument("--bind", default="127.0.0.1", help="the address to listen on (default %(default)s)")
        parser.add_argument(
            "--port",
            type=read_port,
            default=settings.MOORLINE_PORT,
            help="the port (default MOORLINE_PORT: %(default)s)",
        )
        parser.add_argument(
            "--drain-timeout",
            type=float,
            default=settings.MOORLINE_DRAIN_TIMEOUT,
            help="seconds that streams may still take after SIGTERM (default MOORLINE_DRAIN_TIMEOUT: %(default)s)",
        )
        parser.add_argument(
            "--transport",
            choices=["native", "asgi"],
            default="native",
            help="native takes the sockets over from Daphne; asgi leaves them to it, slower (default %(default)s)",
        )

    def handle(self, **options: Any) -> None:
        if not (settings.MOORLINE_REDIS_URL or settings.DEBUG):
            raise CommandError(
                "MOORLINE_REDIS_URL is not set. Without it gateways learn of a change up to 30 seconds late and no "
                "worker runs. Set it to the address of a Redis or Valkey, such as redis://127.0.0.1:6379/0."
            )
        from portal.config.asgi import Role, serve  # noqa: PLC0415 - only this command needs the data plane

        failure = serve(
            Role(options["role"]),
            host=options["bind"],
            port=options["port"],
            native=options["transport"] == "native",
            drain_timeout=options["drain_timeout"],
        )
        if failure:
            raise CommandError(failure)
