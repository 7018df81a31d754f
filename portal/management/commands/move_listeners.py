from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.addresses import listeners
from portal.management.base import find_tunnel, read_actor, say_errors
from portal.services.tunnels import move_listeners


class Command(BaseCommand):
    help = "Let gateways listen for ports of a tunnel on other numbers."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tunnel", help="customer/tunnel, such as acmeco/prod")
        parser.add_argument("move", nargs="+", metavar="PORT=NUMBER", help="a port of the tunnel, and where to listen")

    def handle(self, *args: Any, **options: Any) -> None:
        moves = dict(_read_move(text) for text in options["move"])
        with say_errors():
            tunnel = move_listeners(tunnel=find_tunnel(options["tunnel"]), listen_ports=moves, actor=read_actor())
        self.stdout.write(f"Gateways listen for {tunnel}: {listeners(tunnel)}.")


def _read_move(text: str) -> tuple[int, int]:
    port, _, number = text.partition("=")
    if not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in (port, number)):
        raise CommandError(f"{text!r} is no move. Write PORT=NUMBER, such as 25060=25160.")
    return int(port), int(number)
