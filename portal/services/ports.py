"""Give every port of a tunnel the port that gateways listen on for it, and take it back."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
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


def add_ports(tunnel: Tunnel, ports: Mapping[int, TunnelPort.Kind]) -> list[TunnelPort]:
    """Add ports to a tunnel, each with a number to listen on where one is free.

    With MOORLINE_LISTEN_PORTS the number is the lowest of that range which is free and was not given back lately.
    Without it, as on a laptop, a TCP port listens on its own number where that is free, so that 25060 is 25060; else,
    and for HTTP, on the lowest free number from the configured start.

    Raises:
        ValidationError: at ``tcp_ports``, when the customer has as many as it may, or when other writers took every
            number that was tried.
    """
    _check_limit(tunnel, len(ports))
    rows = [TunnelPort(tunnel=tunnel, kind=kind, port=port) for port, kind in ports.items()]
    _choose_and_save(rows)
    return rows


def choose_missing_ports(tunnel: Tunnel) -> bool:
    """Choose numbers for those ports of a tunnel that have none.

    Returns:
        Whether a number was found.
    """
    missing = list(tunnel.ports.filter(listen_port=None))
    _choose_and_save(missing)
    return any(row.listen_port is not None for row in missing)


def check_listen_port(number: int) -> None:
    """Refuse a number that gateways may not listen on for a tunnel.

    Raises:
        ValidationError: it is the gateways' own, out of their range, or was given back too short a while ago.
    """
    numbers = settings.MOORLINE_LISTEN_PORTS
    if numbers is not None and number not in numbers:
        message = f"Gateways listen for tunnels on {numbers[0]} to {numbers[-1]} alone. Choose a number of these."
        raise ValidationError(message, code="range")
    if number in _reserved():
        raise ValidationError(f"Gateways need {number} for themselves. Choose another number.", code="reserved")
    if number in _released():
        raise ValidationError(
            f"{number} was given back a short while ago, and Services may still lead there. Choose another number.",
            code="released",
        )


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


def _check_limit(tunnel: Tunnel, more: int) -> None:
    """Refuse ports beyond those that one customer may have: all customers share the numbers."""
    limit = settings.MOORLINE_MAX_PORTS
    has = TunnelPort.objects.filter(tunnel__customer=tunnel.customer_id).count()
    if has + more > limit:
        message = (
            f"The tunnels of {tunnel.customer} have {has} ports, with one for HTTP in each, and may have {limit} "
            "(MOORLINE_MAX_PORTS). Delete some that are not needed."
        )
        raise ValidationError({"tcp_ports": ValidationError(message, code="limit")})


def _choose_and_save(rows: Sequence[TunnelPort]) -> None:
    """Choose numbers for all of the rows at once, and once more where another writer took one of them."""
    for _ in range(ATTEMPTS):
        _choose_listen_ports(rows)
        chosen = [row.listen_port for row in rows if row.listen_port is not None]
        try:
            with transaction.atomic():
                for row in rows:
                    row.save()
                return
        except IntegrityError:
            if not TunnelPort.objects.filter(listen_port__in=chosen).exists():
                raise
            for row in rows:
                if row._state.adding:
                    row.pk = None
    raise ValidationError({"tcp_ports": ValidationError("Too many changes at once. Try again.", code="conflict")})


def _choose_listen_ports(rows: Sequence[TunnelPort]) -> None:
    # The order matters: a number that is given back in between is seen as released, since both happen at once.
    taken = {*TunnelPort.objects.exclude(listen_port=None).values_list("listen_port", flat=True)}
    taken |= _reserved() | _released()
    for row in rows:
        row.listen_port = _choose_listen_port(row, taken)
        taken.add(row.listen_port)


def _choose_listen_port(row: TunnelPort, taken: Container[int | None]) -> int | None:
    numbers = settings.MOORLINE_LISTEN_PORTS
    if numbers is None:
        is_http = row.kind == TunnelPort.Kind.HTTP
        if not is_http and row.port >= FIRST_UNPRIVILEGED_PORT and row.port not in taken:
            return row.port
        start = settings.MOORLINE_HTTP_LISTEN_START if is_http else settings.MOORLINE_TCP_LISTEN_START
        numbers = range(start, HIGHEST_PORT + 1)
    return next((number for number in numbers if number not in taken), None)


def _reserved() -> set[int | None]:
    """Return the numbers that gateways need for themselves."""
    hop = [] if settings.MOORLINE_LISTEN_PORTS is None else [settings.MOORLINE_HOP_PORT]
    return {HTTP_PORT, settings.MOORLINE_PORT, *hop}


def _released() -> set[int | None]:
    """Return the numbers that were given back so lately that Services may still lead there."""
    if settings.MOORLINE_LISTEN_PORTS is None:
        return set()
    kept_since = timezone.now() - timedelta(seconds=settings.MOORLINE_PORT_QUARANTINE)
    return {*ReleasedPort.objects.filter(released_at__gt=kept_since).values_list("listen_port", flat=True)}
