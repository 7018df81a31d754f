from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from portal.models.access import validate_quota
from portal.models.names import LABEL_LENGTH, LABEL_PATTERN, validate_customer_name


class Source(models.TextChoices):
    """Where a row is changed; everybody else only shows it."""

    PORTAL = "portal", "Portal"
    RESOURCE = "resource", "Tunnel resource"


class Customer(models.Model):
    """A tenant: one namespace, its contacts and its tunnels."""

    name = models.CharField(
        max_length=LABEL_LENGTH,
        unique=True,
        validators=[validate_customer_name],
        error_messages={"unique": "A customer of this name exists already. Choose another name."},
        help_text="The namespace, and how addresses end: acmeco in prod.acmeco. Stays for ever.",
    )
    display_name = models.CharField(max_length=200, blank=True, help_text="The name as people write it.")
    contact_email = models.EmailField(blank=True, help_text="Whom to write to about this customer's tunnels.")
    suspended = models.BooleanField(default=False, help_text="No client of this customer may connect.")
    resource_quota = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_quota],
        help_text='The ResourceQuota of its namespace, such as {"count/services": "50"}. Empty makes none.',
    )
    isolated = models.BooleanField(
        default=False, help_text="A NetworkPolicy lets nothing into the pods of its namespace from other namespaces."
    )
    source = models.CharField(max_length=8, choices=Source, default=Source.PORTAL, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(name="customer_name_is_a_dns_label", condition=Q(name__regex=LABEL_PATTERN)),
        ]

    def __str__(self) -> str:
        return self.name
