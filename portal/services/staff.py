"""The provider's own people."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from portal.services.events import Actor, record_event


@transaction.atomic
def create_admin(*, username: str, password: str, email: str = "", actor: Actor) -> tuple[User, bool]:
    """Create a member of staff who may do everything; one who is there already stays as they are.

    Returns:
        The user, and whether they are new.

    Raises:
        ValidationError: at ``password``, when it is too easy to guess.
    """
    existing = User.objects.filter(username=username).first()
    if existing is not None:
        return existing, False
    try:
        validate_password(password, User(username=username, email=email))
    except ValidationError as error:
        raise ValidationError({"password": error}) from error
    user = User.objects.create_superuser(username=username, email=email, password=password)
    record_event(actor=actor, verb="staff.create", details={"username": username})
    return user, True
