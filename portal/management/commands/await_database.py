"""``manage.py await_database``: wait until the database answers, or until its tables are as this version expects."""

from __future__ import annotations

import signal
import time
from argparse import ArgumentParser
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from portal.management.base import describe_database_error

POLL_SECONDS = 1.0
TERMINATED = 128 + signal.SIGTERM


class Command(BaseCommand):
    help = "Wait until the database answers; with --migrated, until every migration of this version is applied."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--migrated", action="store_true", help="wait for the migrations too; none is applied here")
        parser.add_argument(
            "--timeout", type=float, default=300.0, metavar="SECONDS", help="give up then (default %(default)s)"
        )

    def handle(self, **options: Any) -> None:
        signal.signal(signal.SIGTERM, _end)  # the first process of a container does not end by itself
        deadline = time.monotonic() + options["timeout"]
        said = ""
        while (missing := _find_missing(migrated=options["migrated"])) is not None:
            if time.monotonic() >= deadline:
                raise CommandError(f"Gave up after {options['timeout']:g} s. {missing}")
            if missing != said:
                self.stdout.write(f"Waiting: {missing}")
                said = missing
            time.sleep(POLL_SECONDS)
        self.stdout.write("The database is up to date." if options["migrated"] else "The database answers.")


def _find_missing(*, migrated: bool) -> str | None:
    """Say in a sentence what keeps the database from being used, None where nothing does."""
    try:
        connection.close()
        connection.ensure_connection()
        if not migrated:
            return None
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        return describe_database_error(error)
    if not plan:
        return None
    names = ", ".join(f"{migration.app_label} {migration.name}" for migration, _ in plan[:3])
    more = f" and {len(plan) - 3} more" if len(plan) > 3 else ""
    return f"Migrations are not applied: {names}{more}."


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
