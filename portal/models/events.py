from __future__ import annotations

from typing import Any, NoReturn

from django.db import models
from django.utils import timezone

from portal.models.customers import Customer
from portal.models.names import LABEL_LENGTH
from portal.models.tunnels import Tunnel


class Event(models.Model):
    """One line of the audit trail: written once, never changed, never deleted."""

    when = models.DateTimeField(default=timezone.now, editable=False)
    actor = models.CharField(max_length=150)
    source_address = models.GenericIPAddressField(null=True)
    # What the event speaks of may be deleted; its name stays.
    customer = models.ForeignKey(Customer, on_delete=models.SET_NULL, null=True, related_name="events")
    customer_name = models.CharField(max_length=LABEL_LENGTH, blank=True)
    tunnel = models.ForeignKey(Tunnel, on_delete=models.SET_NULL, null=True, related_name="events")
    tunnel_name = models.CharField(max_length=LABEL_LENGTH, blank=True)
    verb = models.CharField(max_length=50)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-when", "-pk"]
        indexes = [
            models.Index(fields=["-when"], name="event_by_time"),
            models.Index(fields=["customer", "-when"], name="event_by_customer"),
            models.Index(fields=["tunnel", "-when"], name="event_by_tunnel"),
        ]

    def __str__(self) -> str:
        return f"{self.when:%Y-%m-%d %H:%M:%S} {self.actor} {self.verb}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert the event.

        Raises:
            TypeError: when it is in the trail already.
        """
        if not self._state.adding:
            raise TypeError("An event is never changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse.

        Raises:
            TypeError: always.
        """
        raise TypeError("An event is never deleted.")
