#!/usr/bin/env python3
"""Run a command of the portal: migrate, serve, create_tunnel and so on."""

import os
import sys


def main() -> None:
    """Hand the command line to Django."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.config.settings")
    try:
        from django.core.management import execute_from_command_line  # noqa: PLC0415 - may not be installed
    except ImportError:
        raise SystemExit(
            "moorline: Django is not installed here. Install with: pip install 'moorline[server]'"
        ) from None
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
