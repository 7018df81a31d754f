from __future__ import annotations

from django.db import models
from django.db.models import Q

from portal.models.tokens import Token
from portal.models.tunnels import Tunnel


class Session(models.Model):
    """One WebSocket of one client on one gateway, live until ``closed_at`` is set."""

    session_id = models.UUIDField(primary_key=True, editable=False)
    tunnel = models.ForeignKey(Tunnel, on_delete=models.CASCADE, related_name="sessions")
    token = models.ForeignKey(Token, on_delete=models.SET_NULL, null=True, related_name="sessions")
    gateway = models.CharField(max_length=253)
    client_version = models.CharField(max_length=64, blank=True)
    client_instance = models.CharField(max_length=64, blank=True)
    client_address = models.CharField(max_length=64, blank=True)
    transport = models.CharField(max_length=16)
    opened_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    # What it has carried, as the gateway said last: bytes from the client, bytes to it.
    bytes_received = models.PositiveBigIntegerField(default=0)
    bytes_sent = models.PositiveBigIntegerField(default=0)
    closed_at = models.DateTimeField(null=True)
    close_code = models.CharField(max_length=32, blank=True)
    close_reason = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-opened_at"]
        indexes = [
            models.Index(fields=["tunnel", "-opened_at"], name="session_by_tunnel"),
            models.Index(fields=["tunnel"], condition=Q(closed_at=None), name="session_live_by_tunnel"),
            models.Index(fields=["gateway"], condition=Q(closed_at=None), name="session_live_by_gateway"),
            models.Index(fields=["last_seen_at"], condition=Q(closed_at=None), name="session_live_by_last_seen"),
            models.Index(fields=["closed_at"], name="session_by_closing"),
        ]

    def __str__(self) -> str:
        return str(self.session_id)
