from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from portal import queries
from portal.management.base import find_tunnel, read_actor, say_errors, write_secret
from portal.models import Tunnel
from portal.services.tokens import hash_token, mint_token


class Command(BaseCommand):
    help = "Mint a token for the clients of a tunnel, and write its plain text, which cannot be had again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tunnel", help="customer/tunnel, such as acmeco/prod")
        parser.add_argument("--name", required=True, help="where it will be used")
        parser.add_argument("--expires-in-days", type=int, metavar="DAYS", help="it never expires when left out")
        parser.add_argument(
            "--output", type=Path, metavar="FILE", help="a file only you can read; else standard output"
        )
        parser.add_argument("--if-absent", action="store_true", help="leave FILE alone when its token is in force")

    def handle(self, *args: Any, **options: Any) -> None:
        days, output = options["expires_in_days"], options["output"]
        if days is not None and not 1 <= days <= 36500:
            raise CommandError("--expires-in-days takes a number from 1 to 36500.")
        if options["if_absent"] and output is None:
            raise CommandError("--if-absent needs --output.")
        # A token whose plain text could not be written is not kept either.
        with say_errors(), transaction.atomic():
            tunnel = find_tunnel(options["tunnel"])
            if options["if_absent"] and _holds_active_token(output, tunnel):
                self.stdout.write(f"{output} holds a token for {tunnel}.")
                return
            _, plain_text = mint_token(
                tunnel=tunnel,
                name=options["name"],
                expires_at=timezone.now() + timedelta(days=days) if days else None,
                actor=read_actor(),
            )
            if output is not None:
                write_secret(output, plain_text)
        if output is None:
            self.stdout.write(plain_text)
        else:
            self.stdout.write(f"Minted a token for {tunnel}; {output} holds it.")


def _holds_active_token(path: Path, tunnel: Tunnel) -> bool:
    try:
        plain_text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return False
    return queries.active_tokens(tunnel).filter(hash=hash_token(plain_text)).exists()
