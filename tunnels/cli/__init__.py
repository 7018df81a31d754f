"""The ``moorline`` command."""
