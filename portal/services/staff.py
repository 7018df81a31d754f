"""The provider's own people."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction

from portal.services.events import Actor, record_event


@transaction.atomic
def create_admin(*, username: str, password: str, email: str = "", actor: Actor) -> tuple[User, bool]:
    """Create a member of staff who may do everything; one who is there already stays as they are.

    Returns:
        The user, and whether they are new.
    """
    existing = User.objects.filter(username=username).first()
    if existing is not None:
        return existing, False
    user = User.objects.create_superuser(username=username, email=email, password=password)
    record_event(actor=actor, verb="staff.create", details={"username": username})
    return user, True
