"""Insert rows that another writer may be inserting as well."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.db.models import Model


def insert_row(row: Model) -> None:
    """Check a row and insert it.

    Raises:
        ValidationError: keyed by field; also when another writer took a unique name between check and insertion.
    """
    row.full_clean()
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        row.full_clean()  # finds the other writer's row, and says at which field
        raise
