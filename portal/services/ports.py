"""Give every port of a tunnel the port that gateways listen on for it."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from portal.models import HTTP_PORT, Tunnel, TunnelPort

# Below this only root may listen.
FIRST_UNPRIVILEGED_PORT = 1024
HIGHEST_PORT = 65535
# Each failed attempt means that another writer took the number in between and is done.
ATTEMPTS = 20


def add_port(tunnel: Tunnel, kind: TunnelPort.Kind, port: int) -> TunnelPort:
    """Add a port to a tunnel.

    A TCP port listens on its own number where that is free, so that on a laptop 25060 is 25060; else, and for HTTP, on
    the lowest free number from the configured start.

    Raises:
        ValidationError: when no number is free.
    """
    for _ in range(ATTEMPTS):
        listen_port = _choose_listen_port(kind, port)
        try:
            with transaction.atomic():
                return TunnelPort.objects.create(tunnel=tunnel, kind=kind, port=port, listen_port=listen_port)
        except IntegrityError:
            if not TunnelPort.objects.filter(listen_port=listen_port).exists():
                raise
    raise ValidationError("Too many changes at once. Try again.", code="conflict")


def _choose_listen_port(kind: TunnelPort.Kind, port: int) -> int:
    taken = {HTTP_PORT, settings.MOORLINE_PORT, *TunnelPort.objects.values_list("listen_port", flat=True)}
    if kind == TunnelPort.Kind.TCP and port >= FIRST_UNPRIVILEGED_PORT and port not in taken:
        return port
    is_http = kind == TunnelPort.Kind.HTTP
    name = "MOORLINE_HTTP_LISTEN_START" if is_http else "MOORLINE_TCP_LISTEN_START"
    for listen_port in range(getattr(settings, name), HIGHEST_PORT + 1):
        if listen_port not in taken:
            return listen_port
    raise ValidationError(f"No port is free for gateways to listen on. Lower {name}.", code="exhausted")
