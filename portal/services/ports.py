"""Give every port of a tunnel the port that gateways listen on for it, and take it back."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from portal.models import HTTP_PORT, ReleasedPort, Tunnel, TunnelPort

# Below this only root may listen.
FIRST_UNPRIVILEGED_PORT = 1024
HIGHEST_PORT = 65535
# Each failed attempt means that another writer took the number in between and is done.
ATTEMPTS = 20


def add_port(tunnel: Tunnel, kind: TunnelPort.Kind, port: int) -> TunnelPort:
    """Add a port to a tunnel, with a number to listen on where one is free.

    With MOORLINE_LISTEN_PORTS the number is the lowest of that range which is free and was not given back lately.
    Without it, as on a laptop, a TCP port listens on its own number where that is free, so that 25060 is 25060; else,
    and for HTTP, on the lowest free number from the configured start.

    Raises:
        ValidationError: when other writers took every number it tried.
    """
    row = TunnelPort(tunnel=tunnel, kind=kind, port=port)
    _choose_and_save(row)
    return row


def choose_missing_ports(tunnel: Tunnel) -> bool:
    """Choose numbers for those ports of a tunnel that have none.

    Returns:
        Whether a number was found.
    """
    missing = list(tunnel.ports.filter(listen_port=None))
    for row in missing:
        _choose_and_save(row)
    return any(row.listen_port is not None for row in missing)


def release_ports(ports: QuerySet[TunnelPort]) -> None:
    """Keep the numbers of these ports from others for a while; call it before the rows are deleted."""
    if settings.MOORLINE_LISTEN_PORTS is None or not settings.MOORLINE_PORT_QUARANTINE:
        return
    now = timezone.now()
    numbers = ports.values_list("listen_port", flat=True)
    ReleasedPort.objects.bulk_create(
        [ReleasedPort(listen_port=number, released_at=now) for number in numbers if number is not None],
        update_conflicts=True,
        unique_fields=["listen_port"],
        update_fields=["released_at"],
    )


def prune_released_ports() -> int:
    """Forget the numbers that were given back so long ago that anybody may have them.

    Returns:
        How many they were.
    """
    kept_since = timezone.now() - timedelta(seconds=settings.MOORLINE_PORT_QUARANTINE)
    return ReleasedPort.objects.filter(released_at__lte=kept_since).delete()[0]


def _choose_and_save(row: TunnelPort) -> None:
    for _ in range(ATTEMPTS):
        row.listen_port = _choose_listen_port(row.kind, row.port)
        try:
            with transaction.atomic():
                row.save()
                return
        except IntegrityError:
            if not TunnelPort.objects.filter(listen_port=row.listen_port).exists():
                raise
    raise ValidationError({"tcp_ports": ValidationError("Too many changes at once. Try again.", code="conflict")})


def _choose_listen_port(kind: str, port: int) -> int | None:
    # The order matters: a number that is given back in between is seen as released, since both happen at once.
    taken = {*TunnelPort.objects.exclude(listen_port=None).values_list("listen_port", flat=True)}
    taken |= {HTTP_PORT, settings.MOORLINE_PORT}
    numbers = settings.MOORLINE_LISTEN_PORTS
    if numbers is None:
        if kind == TunnelPort.Kind.TCP and port >= FIRST_UNPRIVILEGED_PORT and port not in taken:
            return port
        is_http = kind == TunnelPort.Kind.HTTP
        start = settings.MOORLINE_HTTP_LISTEN_START if is_http else settings.MOORLINE_TCP_LISTEN_START
        numbers = range(start, HIGHEST_PORT + 1)
    else:
        taken.add(settings.MOORLINE_HOP_PORT)
        kept_since = timezone.now() - timedelta(seconds=settings.MOORLINE_PORT_QUARANTINE)
        taken |= {*ReleasedPort.objects.filter(released_at__gt=kept_since).values_list("listen_port", flat=True)}
    return next((number for number in numbers if number not in taken), None)
