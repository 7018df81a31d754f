from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from portal.models.tunnels import Tunnel


class RevokedHash(models.Model):
    """The hash of a token that was revoked and then went with its tunnel: it is to open no other one."""

    hash = models.CharField(max_length=64, primary_key=True)
    revoked_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.hash


class Token(models.Model):
    """What a client of one tunnel authenticates with, kept as a hash.

    The hash is one SHA-256 and not a slow password hash. A token is 256 random bits, so there is nothing to guess that
    slowness would protect, and a plain hash can be looked up by index at every connection.
    """

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100, help_text="Where it is used, such as the name of the customer's machine.")
    hash = models.CharField(max_length=64, unique=True, editable=False)
    prefix = models.CharField(max_length=12, editable=False, help_text="How the token begins, to tell it from others.")
    secret = models.CharField(
        max_length=253, blank=True, editable=False, help_text="The Secret in the customer's namespace that holds it."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.CharField(max_length=150, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert or change the token.

        Raises:
            ValidationError: when it is new and was revoked with a tunnel that is gone.
        """
        if self._state.adding and RevokedHash.objects.filter(hash=self.hash).exists():
            raise ValidationError("This token was revoked. Use a new one.", code="revoked")
        super().save(*args, **kwargs)
