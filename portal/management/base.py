"""What the commands that write have in common."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db import DatabaseError, OperationalError, connection

from portal.models import Tunnel
from portal.services.events import Actor


def read_actor() -> Actor:
    """Say who runs the command, as the audit trail keeps it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        name = str(os.getuid())
    return Actor(f"command line ({name})")


def find_tunnel(path: str) -> Tunnel:
    """Find the tunnel that ``customer/tunnel`` names.

    Raises:
        CommandError: when there is none.
    """
    customer, tunnel = split_path(path)
    found = Tunnel.objects.select_related("customer").filter(customer__name=customer, name=tunnel).first()
    if found is None:
        raise CommandError(f"There is no tunnel {path}. Create it with: manage.py create_tunnel {path}")
    return found


def split_path(path: str) -> tuple[str, str]:
    """Split ``customer/tunnel``.

    Raises:
        CommandError: when it is of another form.
    """
    customer, slash, tunnel = path.partition("/")
    if not (customer and slash and tunnel) or "/" in tunnel:
        raise CommandError(f"{path!r} does not name a tunnel. Write customer/tunnel, such as acmeco/prod.")
    return customer, tunnel


@contextmanager
def say_errors() -> Iterator[None]:
    """Turn what a service refuses, and a database that fails, into one line."""
    try:
        yield
    except ValidationError as error:
        if hasattr(error, "error_dict"):
            lines = [f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()]
        else:
            lines = error.messages
        raise CommandError("; ".join(lines)) from error
    except DatabaseError as error:
        raise CommandError(describe_database_error(error)) from error


def describe_database_error(error: DatabaseError) -> str:
    """Say in one line which database failed, how, and what to do; never its password."""
    message = " ".join(str(error).split())
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"The database {database['NAME']} failed ({message}). Was manage.py migrate run?"
    place = f"The database {database['NAME']} at {database['HOST'] or 'the local socket'}"
    if database["PORT"]:
        place += f":{database['PORT']}"
    if isinstance(error, OperationalError):
        return f"{place} cannot be used ({message}). Check that it runs, and MOORLINE_DATABASE_URL."
    return f"{place} failed ({message}). Was manage.py migrate run?"


def write_secret(path: Path, secret: str) -> None:
    """Write a secret that only this user can read; nobody ever sees half of it.

    Raises:
        CommandError: when the file cannot be written.
    """
    try:
        # A file made by mkstemp is readable by its owner alone.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
        Path(temporary).replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
