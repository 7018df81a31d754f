from __future__ import annotations

from django.db import models


class Gateway(models.Model):
    """A gateway process that is up, as it says of itself every 15 seconds."""

    name = models.CharField(max_length=253, unique=True, help_text="In a cluster the pod's name.")
    address = models.CharField(max_length=64, blank=True, help_text="In a cluster the pod's address.")
    hop_port = models.PositiveIntegerField(default=0, help_text="Where other gateways pass connections on to it.")
    version = models.CharField(max_length=64, blank=True)
    customers = models.JSONField(default=list, help_text="The customers it is dedicated to; empty serves everyone.")
    draining = models.BooleanField(default=False)
    silent = models.BooleanField(default=False, help_text="It has not spoken of itself when it should have.")
    started_at = models.DateTimeField()
    last_seen_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
