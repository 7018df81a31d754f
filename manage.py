#!/usr/bin/env python3
"""Run a command of the portal: migrate, serve, create_tunnel and so on."""

import os
import sys


def main() -> None:
    """Hand the command line to Django."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.config.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415 - may not be installed
        from django.core.management import execute_from_command_line  # noqa: PLC0415
        from django.db import DatabaseError  # noqa: PLC0415
    except ImportError:
        raise SystemExit(
            "moorline: Django is not installed here. Install with: pip install 'moorline[server]'"
        ) from None
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        raise SystemExit(f"moorline: {' '.join(str(error).split())}") from None
    except DatabaseError as error:
        from portal.management.base import describe_database_error  # noqa: PLC0415 - needs what the command set up

        raise SystemExit(f"moorline: {describe_database_error(error)}") from None


if __name__ == "__main__":
    main()
