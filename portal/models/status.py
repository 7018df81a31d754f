"""What is known of a row's objects in the cluster, and whether there is work to do on them."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from portal.models.customers import Customer
from portal.models.names import LABEL_LENGTH
from portal.models.tunnels import Tunnel


class Work(models.Model):
    """Something to reconcile, as a row: a message that gets lost loses no work.

    There is work while ``revision`` is ahead of ``applied_revision``. Whoever does it claims the row until
    ``claimed_until``, so that no two workers write the same objects, and says at the end which revision was applied.
    """

    revision = models.PositiveBigIntegerField(default=1)
    applied_revision = models.PositiveBigIntegerField(default=0)
    claim = models.UUIDField(null=True)
    claimed_until = models.DateTimeField(null=True)
    failures = models.PositiveIntegerField(default=0)  # in a row
    retry_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True
        indexes = [
            models.Index(fields=["retry_at"], condition=Q(revision__gt=F("applied_revision")), name="%(class)s_to_do"),
            models.Index(fields=["claim"], condition=Q(claim__isnull=False), name="%(class)s_claimed"),
        ]


class CustomerStatus(Work):
    """The customer's namespace and what it holds for the customer as a whole."""

    customer = models.OneToOneField(Customer, on_delete=models.CASCADE, primary_key=True, related_name="status")
    conditions = models.JSONField(default=list)
    made_namespace = models.BooleanField(default=False)  # and not found it there

    def __str__(self) -> str:
        return str(self.customer)


class TunnelStatus(Work):
    """The tunnel's Services, their endpoints, and what people are told of it."""

    tunnel = models.OneToOneField(Tunnel, on_delete=models.CASCADE, primary_key=True, related_name="status")
    observed_generation = models.PositiveBigIntegerField(default=0)
    conditions = models.JSONField(default=list)
    # Of a tunnel that a custom resource asked for: which resource was looked at last and its generation, and with
    # `reason` and `message` why the row is still as the one before wanted it.
    resource_uid = models.CharField(max_length=64, blank=True)
    resource_generation = models.PositiveBigIntegerField(default=0)
    refusal = models.JSONField(default=dict)

    def __str__(self) -> str:
        return str(self.tunnel)


class Leftover(Work):
    """A tunnel or a whole customer that was deleted, until its objects are gone from the cluster too."""

    customer_name = models.CharField(max_length=LABEL_LENGTH)
    tunnel_name = models.CharField(max_length=LABEL_LENGTH, blank=True)  # blank: the customer's namespace
    made_namespace = models.BooleanField(default=False)  # of a customer: it goes too
    created_at = models.DateTimeField(default=timezone.now)

    class Meta(Work.Meta):
        constraints = [models.UniqueConstraint(fields=["customer_name", "tunnel_name"], name="leftover_is_unique")]

    def __str__(self) -> str:
        return f"{self.customer_name}/{self.tunnel_name}" if self.tunnel_name else self.customer_name
