"""Create, change, enable, disable and delete tunnels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction

from portal.config.environment import PORTS
from portal.models import HTTP_PORT, Customer, Source, Tunnel, TunnelHost, TunnelPort, TunnelStatus
from portal.models.names import validate_host_name
from portal.notices import publish_on_commit
from portal.services.events import Actor, record_event
from portal.services.ports import add_ports, check_listen_port, choose_missing_ports, release_ports
from portal.services.rows import insert_row
from portal.services.work import leave_over, queue_reconcile_on_commit, touch_tunnels

# What a tunnel exposes is told to its clients in one frame of 64 KiB (tunnels/SPEC.md, section 4.1).
MOST_PORTS = 200
MOST_HOST_NAMES = 200
# What a custom resource decides, where one asked for the tunnel.
RESOURCE_FIELDS = frozenset({"tcp_ports", "host_names", "access", "expires_at", "token_secret", "token_key"})


class Unchanged(Enum):
    """The value of an argument that leaves a field as it is where ``None`` means something."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True)
class Resource:
    """What only a custom resource says of its tunnel.

    Args:
        group: its API group.
        token_secret: the Secret with the token it brings along; without one a token is made for it.
        token_key: where in the Secret the token is.
    """

    group: str
    token_secret: str = ""
    token_key: str = ""

    def describe(self, tunnel: Tunnel) -> None:
        """Write it into the row."""
        tunnel.resource_group = self.group
        tunnel.token_secret = self.token_secret
        tunnel.token_key = self.token_key


def clean_tcp_ports(ports: Iterable[int | str]) -> tuple[int, ...]:
    """Check the TCP ports of one tunnel and sort them.

    Raises:
        ValidationError: one message for each port that is none, is reserved or comes twice.
    """
    texts = [str(port).strip() for port in ports]
    numbers = [int(text) for text in texts if _is_port(text)]
    errors = [
        ValidationError(f"“{text[:20]}” is not a port. Write a whole number from 1 to 65535.", code="invalid")
        for text in texts
        if not _is_port(text)
    ]
    errors += [
        ValidationError(f"Port {port} is listed {times} times. List it once.", code="duplicate")
        for port, times in Counter(numbers).items()
        if times > 1
    ]
    if len(texts) > MOST_PORTS:
        errors.append(
            ValidationError(f"A tunnel has {MOST_PORTS} ports at most. Make another tunnel.", code="too_many")
        )
    if HTTP_PORT in numbers:
        errors.append(
            ValidationError(
                f"Port {HTTP_PORT} is the HTTP port of every tunnel. Choose another port; the client can forward it to"
                f" {HTTP_PORT}.",
                code="reserved",
            )
        )
    if errors:
        raise ValidationError(errors)
    return tuple(sorted(numbers))


def clean_host_names(names: Iterable[str]) -> tuple[str, ...]:
    """Check the HTTP host names of one tunnel, put them in lower case without a final dot, and sort them.

    Raises:
        ValidationError: one message for each name that is none or comes twice.
    """
    cleaned = [name.strip().lower().removesuffix(".") for name in names]
    errors = []
    for name, times in Counter(cleaned).items():
        try:
            validate_host_name(name)
        except ValidationError as error:
            errors.append(error)
        if times > 1:
            errors.append(ValidationError(f"“{name[:80]}” is listed {times} times. List it once.", code="duplicate"))
    if len(cleaned) > MOST_HOST_NAMES:
        message = f"A tunnel has {MOST_HOST_NAMES} host names at most. Make another tunnel."
        errors.append(ValidationError(message, code="too_many"))
    if errors:
        raise ValidationError(errors)
    return tuple(sorted(cleaned))


@transaction.atomic
def create_tunnel(
    *,
    customer: Customer,
    name: str,
    tcp_ports: Iterable[int | str] = (),
    host_names: Iterable[str] = (),
    enabled: bool = True,
    max_sessions: int | None = None,
    max_streams: int | None = None,
    access: list[dict[str, Any]] | None = None,
    expires_at: datetime | None = None,
    resource: Resource | None = None,
    actor: Actor,
) -> Tunnel:
    """Create a tunnel of a customer.

    Where no port is free for gateways to listen on the tunnel is made all the same: its status says so, and the ports
    follow once some are given back.

    Args:
        tcp_ports: the ports it answers on, beside the HTTP port that each tunnel has.
        host_names: the HTTP host names it answers to.
        max_sessions: how many clients at once; the installation's default when left out.
        max_streams: how many streams in one session; the installation's default when left out.
        access: who may connect inside the cluster, as peers of a NetworkPolicy; everyone when left out.
        expires_at: aware; from then on its clients are refused.
        resource: the custom resource that asks for it.

    Raises:
        ValidationError: keyed by field.
    """
    tunnel = Tunnel(customer=customer, name=name, enabled=enabled, access=access or [], expires_at=expires_at)
    for field, value in {"max_sessions": max_sessions, "max_streams": max_streams}.items():
        if value is not None:
            setattr(tunnel, field, value)
    if resource is not None:
        tunnel.source = Source.RESOURCE
        resource.describe(tunnel)
    ports, hosts = _clean(tunnel, tcp_ports, host_names)
    _check_scope(customer)
    insert_row(tunnel)
    add_ports(tunnel, {HTTP_PORT: TunnelPort.Kind.HTTP, **dict.fromkeys(ports, TunnelPort.Kind.TCP)})
    TunnelStatus.objects.create(tunnel=tunnel)
    queue_reconcile_on_commit()
    TunnelHost.objects.bulk_create(TunnelHost(tunnel=tunnel, name=host) for host in hosts)
    details = {"tcp_ports": list(ports), "host_names": list(hosts), "enabled": enabled}
    details |= {"access": tunnel.access} if tunnel.access else {}
    details |= {"expires_at": expires_at.isoformat()} if expires_at else {}
    record_event(actor=actor, verb="tunnel.create", tunnel=tunnel, details=details)
    publish_on_commit([tunnel.pk])
    return tunnel


@transaction.atomic
def update_tunnel(
    *,
    tunnel: Tunnel,
    tcp_ports: Iterable[int | str] | None = None,
    host_names: Iterable[str] | None = None,
    enabled: bool | None = None,
    max_sessions: int | None = None,
    max_streams: int | None = None,
    access: list[dict[str, Any]] | None = None,
    expires_at: datetime | Unchanged | None = UNCHANGED,
    resource: Resource | None = None,
    actor: Actor,
) -> Tunnel:
    """Change what is desired of a tunnel; ``None`` leaves a field as it is. Customer and name stay for ever.

    A port that stays keeps the number that gateways listen on for it. What a custom resource asked for is changed by a
    *resource* alone, apart from whether it is enabled and its limits.

    Returns:
        The tunnel as it is now, one generation on if anything changed.

    Raises:
        ValidationError: keyed by field.
    """
    tunnel = _lock(tunnel)
    before = _desired_state(tunnel)
    wanted = {"enabled": enabled, "max_sessions": max_sessions, "max_streams": max_streams, "access": access}
    for field, value in wanted.items():
        if value is not None:
            setattr(tunnel, field, value)
    if not isinstance(expires_at, Unchanged):
        tunnel.expires_at = expires_at
    if resource is not None:
        resource.describe(tunnel)
    ports, hosts = _clean(
        tunnel,
        before["tcp_ports"] if tcp_ports is None else tcp_ports,
        before["host_names"] if host_names is None else host_names,
    )
    _replace_ports(tunnel, set(before["tcp_ports"]), ports)
    _replace_hosts(tunnel, set(before["host_names"]), hosts)
    after = {**_fields(tunnel), "tcp_ports": list(ports), "host_names": list(hosts)}
    changes = {field: {"from": before[field], "to": after[field]} for field in after if before[field] != after[field]}
    _check_source(tunnel, resource, changes.keys() & RESOURCE_FIELDS)
    if changes:
        tunnel.generation += 1
        tunnel.save()
        record_event(actor=actor, verb="tunnel.update", tunnel=tunnel, details=changes)
        _announce([tunnel.pk])
    return tunnel


@transaction.atomic
def find_listen_ports(*, tunnel: Tunnel) -> Tunnel:
    """Let gateways listen for ports of a tunnel for which no number was free, where there are some now."""
    tunnel = _lock(tunnel)
    if choose_missing_ports(tunnel):
        tunnel.generation += 1
        tunnel.save(update_fields=["generation"])
        _announce([tunnel.pk])
    return tunnel


@transaction.atomic
def move_listeners(*, tunnel: Tunnel, listen_ports: Mapping[int, int], actor: Actor) -> Tunnel:
    """Let gateways listen for ports of a tunnel on other numbers; nothing happens where they do already.

    Args:
        listen_ports: port of the tunnel -> port to listen on for it.

    Raises:
        ValidationError: the tunnel has no such port, or the number is out of range or listened on for another port.
    """
    tunnel = _lock(tunnel)
    moved = {}
    for number, listen_port in listen_ports.items():
        port = tunnel.ports.filter(port=number).first()
        if port is None:
            raise ValidationError(f"{tunnel} has no port {number}.", code="invalid")
        if port.listen_port == listen_port:
            continue
        moved[str(number)] = {"from": port.listen_port, "to": listen_port}
        check_listen_port(listen_port)
        release_ports(tunnel.ports.filter(pk=port.pk))
        port.listen_port = listen_port
        holder = TunnelPort.objects.filter(listen_port=listen_port).select_related("tunnel__customer").first()
        if holder is not None:
            raise ValidationError(
                f"Gateways listen on {listen_port} for port {holder.port} of {holder.tunnel}. Choose another number.",
                code="taken",
            )
        port.full_clean()
        port.save(update_fields=["listen_port"])
    if moved:
        tunnel.generation += 1
        tunnel.save(update_fields=["generation"])
        record_event(actor=actor, verb="tunnel.move_listeners", tunnel=tunnel, details=moved)
        _announce([tunnel.pk])
    return tunnel


@transaction.atomic
def enable_tunnel(*, tunnel: Tunnel, actor: Actor) -> Tunnel:
    """Let the clients of a tunnel connect; nothing happens when they may already."""
    return _set_enabled(tunnel, True, "tunnel.enable", actor)


@transaction.atomic
def disable_tunnel(*, tunnel: Tunnel, actor: Actor) -> Tunnel:
    """End every session of a tunnel and let no client connect; nothing happens when it is disabled already."""
    return _set_enabled(tunnel, False, "tunnel.disable", actor)


@transaction.atomic
def delete_tunnel(*, tunnel: Tunnel, resource: Resource | None = None, actor: Actor) -> None:
    """Delete a tunnel with its tokens and the record of its sessions. The audit trail stays.

    Raises:
        ValidationError: when a custom resource asks for it, and it is not a *resource* that asks no more.
    """
    tunnel = _lock(tunnel)
    _check_source(tunnel, resource, {""})
    release_ports(tunnel.ports.all())
    leave_over(customer_name=tunnel.customer.name, tunnel_name=tunnel.name)
    record_event(actor=actor, verb="tunnel.delete", tunnel=tunnel, details=_desired_state(tunnel))
    publish_on_commit([tunnel.pk])
    tunnel.delete()


def _set_enabled(tunnel: Tunnel, enabled: bool, verb: str, actor: Actor) -> Tunnel:
    tunnel = _lock(tunnel)
    if tunnel.enabled is enabled:
        return tunnel
    tunnel.enabled = enabled
    tunnel.generation += 1
    tunnel.save(update_fields=["enabled", "generation"])
    record_event(actor=actor, verb=verb, tunnel=tunnel)
    _announce([tunnel.pk])
    return tunnel


def _announce(tunnel_ids: list[int]) -> None:
    """Tell the gateways and the reconciler."""
    touch_tunnels(tunnel_ids)
    publish_on_commit(tunnel_ids)


def _check_scope(customer: Customer) -> None:
    """Refuse what could never be reconciled: a tunnel outside of the one namespace of a scoped installation."""
    scope = settings.MOORLINE_TUNNELS_NAMESPACE
    if scope and customer.name != scope:
        raise ValidationError(
            {"customer": ValidationError(f"This installation serves the customer {scope} alone.", code="scope")}
        )


def _check_source(tunnel: Tunnel, resource: Resource | None, fields: Iterable[str]) -> None:
    """Refuse a change of what is desired from anywhere but where it is kept."""
    if tunnel.source == Source.RESOURCE and resource is None and fields:
        message = f"{tunnel} is made by a Tunnel resource in the cluster. Change or delete that: kubectl edit tunnel."
        refusal = ValidationError(message, code="resource")
        raise ValidationError({field or NON_FIELD_ERRORS: refusal for field in fields})


def _replace_ports(tunnel: Tunnel, before: set[int], after: tuple[int, ...]) -> None:
    gone = tunnel.ports.filter(kind=TunnelPort.Kind.TCP, port__in=before.difference(after))
    release_ports(gone)
    gone.delete()
    add_ports(tunnel, {port: TunnelPort.Kind.TCP for port in after if port not in before})


def _replace_hosts(tunnel: Tunnel, before: set[str], after: tuple[str, ...]) -> None:
    tunnel.hosts.filter(name__in=before.difference(after)).delete()
    TunnelHost.objects.bulk_create(TunnelHost(tunnel=tunnel, name=host) for host in after if host not in before)


def _lock(tunnel: Tunnel) -> Tunnel:
    """Read the row anew, so that no change made in between is lost."""
    return Tunnel.objects.select_for_update(of=("self",), no_key=True).select_related("customer").get(pk=tunnel.pk)


def _fields(tunnel: Tunnel) -> dict[str, Any]:
    names = ("enabled", "max_sessions", "max_streams", "access", "token_secret", "token_key")
    expires_at = tunnel.expires_at and tunnel.expires_at.isoformat()
    return {**{field: getattr(tunnel, field) for field in names}, "expires_at": expires_at}


def _desired_state(tunnel: Tunnel) -> dict[str, Any]:
    return {
        **_fields(tunnel),
        "tcp_ports": list(tunnel.ports.filter(kind=TunnelPort.Kind.TCP).values_list("port", flat=True)),
        "host_names": list(tunnel.hosts.values_list("name", flat=True)),
    }


def _clean(
    tunnel: Tunnel, tcp_ports: Iterable[int | str], host_names: Iterable[str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Check the row, its ports and its host names together, so that every mistake is told at once."""
    errors: dict[str, list[ValidationError]] = {}

    def check(field: str, clean: Callable[[], Any]) -> Any:
        try:
            return clean()
        except ValidationError as error:
            errors.update(error.error_dict if hasattr(error, "error_dict") else {field: error.error_list})

    check("", tunnel.full_clean)
    ports = check("tcp_ports", lambda: clean_tcp_ports(tcp_ports))
    hosts = check("host_names", lambda: clean_host_names(host_names))
    if errors:
        raise ValidationError(errors)
    return ports, hosts


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and PORTS[0] <= int(text) <= PORTS[1]
