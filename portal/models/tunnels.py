from __future__ import annotations

from collections.abc import Collection

from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from portal.config.environment import MAX_SESSIONS, MAX_STREAMS, PORTS
from portal.models.access import validate_access, validate_expiry
from portal.models.customers import Customer, Source
from portal.models.names import (
    HOST_LENGTH,
    HOST_PATTERN,
    LABEL_LENGTH,
    LETTER_LABEL_PATTERN,
    validate_host_name,
    validate_tunnel_name,
)

# The port of every tunnel's Service that carries HTTP, routed by host name.
HTTP_PORT = 8000


def default_max_sessions() -> int:
    return int(settings.MOORLINE_MAX_SESSIONS)


def default_max_streams() -> int:
    return int(settings.MOORLINE_MAX_STREAMS)


class Tunnel(models.Model):
    """The desired line into one customer's network."""

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="tunnels")
    name = models.CharField(
        max_length=LABEL_LENGTH,
        validators=[validate_tunnel_name],
        help_text="The Service in the customer's namespace: prod in prod.acmeco. Stays for ever.",
    )
    enabled = models.BooleanField(default=True, help_text="While off, its clients are disconnected and refused.")
    max_sessions = models.PositiveIntegerField(
        default=default_max_sessions,
        validators=[MinValueValidator(MAX_SESSIONS[0]), MaxValueValidator(MAX_SESSIONS[1])],
        help_text="How many clients may be connected at once.",
    )
    max_streams = models.PositiveIntegerField(
        default=default_max_streams,
        validators=[MinValueValidator(MAX_STREAMS[0]), MaxValueValidator(MAX_STREAMS[1])],
        help_text="How many TCP connections one client carries at once.",
    )
    access = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_access],
        help_text="Who may connect inside the cluster, as peers of a NetworkPolicy in the customer's namespace. "
        "Empty lets everyone.",
    )
    expires_at = models.DateTimeField(
        null=True, blank=True, validators=[validate_expiry], help_text="From then on its clients are refused."
    )
    source = models.CharField(max_length=8, choices=Source, default=Source.PORTAL, editable=False)
    # Of a tunnel that a custom resource asked for: its API group, and the Secret that holds the token it brought along.
    resource_group = models.CharField(max_length=LABEL_LENGTH, blank=True, editable=False)
    token_secret = models.CharField(max_length=HOST_LENGTH, blank=True, editable=False)
    token_key = models.CharField(max_length=HOST_LENGTH, blank=True, editable=False)
    # Every change to what is desired adds one; whoever acts on the row says which one it has seen.
    generation = models.PositiveBigIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["customer__name", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["customer", "name"],
                name="tunnel_name_is_unique_in_customer",
                violation_error_message="This customer has a tunnel of this name already. Choose another name.",
                violation_error_code="name_taken",
            ),
            models.CheckConstraint(name="tunnel_name_is_a_dns_label", condition=Q(name__regex=LETTER_LABEL_PATTERN)),
            models.CheckConstraint(
                name="tunnel_limits_are_positive", condition=Q(max_sessions__gte=1, max_streams__gte=1)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.customer.name}/{self.name}"

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        """Say that a name is taken at the name, not above the form."""
        try:
            super().validate_constraints(exclude=exclude)
        except ValidationError as error:
            errors = error.error_dict
            taken = [one for one in errors.get(NON_FIELD_ERRORS, []) if one.code == "name_taken"]
            if taken:
                errors[NON_FIELD_ERRORS] = [one for one in errors[NON_FIELD_ERRORS] if one not in taken]
                errors.setdefault("name", []).extend(taken)
            raise ValidationError({field: found for field, found in errors.items() if found}) from error


class TunnelPort(models.Model):
    """One port of a tunnel's Service, and the port a gateway listens on for it."""

    class Kind(models.TextChoices):
        TCP = "tcp", "TCP"
        HTTP = "http", "HTTP"

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="ports")
    kind = models.CharField(max_length=4, choices=Kind)
    port = models.PositiveIntegerField()
    # One number in the whole installation, the same on every gateway: any gateway can listen for any tunnel. None where
    # all were taken; the reconciler tries again.
    listen_port = models.PositiveIntegerField(unique=True, null=True)

    class Meta:
        ordering = ["tunnel_id", "port"]
        constraints = [
            models.UniqueConstraint(fields=["tunnel", "port"], name="tunnel_port_is_unique"),
            models.CheckConstraint(
                name="tunnel_port_is_a_port",
                condition=Q(port__range=PORTS) & (Q(listen_port=None) | Q(listen_port__range=PORTS)),
            ),
            models.CheckConstraint(
                name="tunnel_port_8000_is_http",
                condition=Q(kind="http", port=HTTP_PORT) | (Q(kind="tcp") & ~Q(port=HTTP_PORT)),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.port}"


class ReleasedPort(models.Model):
    """A listen port that a tunnel has given back, kept from others for a while.

    Somewhere a Service may still lead to it; the next tunnel's listener there would answer for another customer.
    """

    listen_port = models.PositiveIntegerField(unique=True)
    released_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return str(self.listen_port)


class TunnelHost(models.Model):
    """An HTTP host name that a tunnel answers to."""

    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="hosts")
    name = models.CharField(max_length=HOST_LENGTH, validators=[validate_host_name])

    class Meta:
        ordering = ["tunnel_id", "name"]
        constraints = [
            models.UniqueConstraint(fields=["tunnel", "name"], name="tunnel_host_is_unique"),
            models.CheckConstraint(name="tunnel_host_is_a_dns_name", condition=Q(name__regex=HOST_PATTERN)),
        ]

    def __str__(self) -> str:
        return self.name
