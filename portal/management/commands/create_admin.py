from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from portal.management.base import read_actor, say_errors, write_secret
from portal.services.staff import create_admin

PASSWORD_BYTES = 18


class Command(BaseCommand):
    help = (
        "Create a member of staff who may do everything; one who exists stays as they are. The password is that of "
        "MOORLINE_ADMIN_PASSWORD or FILE; without either it is made up and written to FILE or, if asked, printed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", default=settings.MOORLINE_ADMIN_USERNAME)
        parser.add_argument("--email", default="")
        parser.add_argument("--password-file", type=Path, metavar="FILE", help="read from here, or written to here")
        parser.add_argument("--print-password", action="store_true", help="print the password of a new user")

    def handle(self, *args: Any, **options: Any) -> None:
        file: Path | None = options["password_file"]
        password = settings.MOORLINE_ADMIN_PASSWORD or (_read_password(file) if file else "")
        made_up = not password
        if made_up and file is None and not options["print_password"]:
            raise CommandError("Set MOORLINE_ADMIN_PASSWORD, or add --password-file FILE or --print-password.")
        password = password or secrets.token_urlsafe(PASSWORD_BYTES)
        with say_errors(), transaction.atomic():
            user, is_new = create_admin(
                username=options["username"], password=password, email=options["email"], actor=read_actor()
            )
            if is_new and made_up and file is not None:
                write_secret(file, password)
        if not is_new:
            self.stdout.write(f"{user} exists.")
            return
        self.stdout.write(f"Created {user}.")
        if options["print_password"]:
            self.stdout.write(password)


def _read_password(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read.") from error
