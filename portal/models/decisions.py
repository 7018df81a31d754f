from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from portal.models.names import LABEL_LENGTH


class StaffDecision(models.Model):
    """What staff decided about a tunnel whose custom resource is gone, for when that comes back.

    Names and not the rows, which are gone as well.
    """

    customer_name = models.CharField(max_length=LABEL_LENGTH)
    tunnel_name = models.CharField(max_length=LABEL_LENGTH)
    enabled = models.BooleanField()
    max_sessions = models.PositiveIntegerField()
    max_streams = models.PositiveIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["customer_name", "tunnel_name"], name="staff_decision_is_unique"),
            models.CheckConstraint(
                name="staff_decision_limits_are_positive", condition=Q(max_sessions__gte=1, max_streams__gte=1)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.customer_name}/{self.tunnel_name}"
