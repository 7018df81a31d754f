"""Take in what custom resources ask for: tunnels, and the customers that these need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from portal.models import Customer, Leftover, RevokedHash, Source, StaffDecision, Tunnel, TunnelPort, TunnelStatus
from portal.models.names import HOST_LENGTH, HOST_PATTERN
from portal.services.customers import check_namespace_name, create_customer, delete_customer
from portal.services.events import Actor, record_event
from portal.services.tunnels import Resource, create_tunnel, delete_tunnel, update_tunnel
from portal.services.work import touch_tunnels

KEY_PATTERN: Final = re.compile(rf"[-._a-zA-Z0-9]{{1,{HOST_LENGTH}}}")
# What staff decide of a tunnel that a resource asked for.
DECIDED_FIELDS: Final = ("enabled", "max_sessions", "max_streams")
# Where in the resource a field of the row is written.
PATHS: Final = {
    "name": "metadata.name",
    "customer": "metadata.namespace",
    "tcp_ports": "spec.tcpPorts",
    "host_names": "spec.upstreamDomains",
    "access": "spec.access.from",
    "expires_at": "spec.expiresAt",
    "token_secret": "spec.tokenRef.name",
    "token_key": "spec.tokenRef.key",
}


@dataclass(frozen=True)
class TunnelResource:
    """What one custom resource asks for.

    Args:
        group: its API group.
        namespace: the customer.
        name: the tunnel.
        uid: which object of that name it is.
        generation: which version of it this is.
        tcp_ports: as they are written, checked or not.
        host_names: likewise.
        access: likewise; who may connect, as peers of a NetworkPolicy.
        expires_at: aware, in UTC.
        token_secret: the Secret with the token it brings along.
        token_key: where in the Secret the token is.
        token_namespace: where it says that the Secret is; empty for its own namespace.
        mistake: why it could not be read, for the person who wrote it.
    """

    group: str
    namespace: str
    name: str
    generation: int = 0
    tcp_ports: tuple[Any, ...] = ()
    host_names: tuple[Any, ...] = ()
    access: Any = field(default_factory=list)
    expires_at: datetime | None = None
    token_secret: str = ""
    token_key: str = ""
    token_namespace: str = ""
    mistake: str = ""
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ResourceRefused(Exception):
    """What a resource asks for cannot be.

    Attributes:
        reason: in one word, as conditions have it.
        message: what to do, for the person who wrote it.
        has_row: whether its tunnel stays as it was before, and the reconciler tells why.
    """

    def __init__(self, reason: str, message: str, *, has_row: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.has_row = has_row


def take_resource(
    *, resource: TunnelResource, check_namespace: Callable[[], None] = lambda: None, takes_over: bool = False
) -> Tunnel:
    """Create or change the tunnel that a resource asks for, and the customer where there is none.

    Nothing is written where all is so already, and where a later version of the resource was taken before. A change
    that is refused leaves the row as it was, and the refusal with it for the reconciler to tell.

    Args:
        check_namespace: raises `ResourceRefused` where no tunnels may be made in the namespace; called only where the
            tunnel is new, and while no row is locked.
        takes_over: whether the resource that the tunnel was made by is gone, and this one stands in for it.

    Raises:
        ResourceRefused: with what to do.
    """
    try:
        if find_tunnel(resource.namespace, resource.name) is None:
            _check_words(resource)
            _check_place(resource, check_namespace)
        with transaction.atomic():
            return _take(resource, _lock_tunnel(resource.namespace, resource.name), takes_over)
    except ResourceRefused as refused:
        refusal = refused
    except ValidationError as error:
        refusal = ResourceRefused("InvalidSpec", describe_errors(error))
    if _record_refusal(resource, refusal):
        raise ResourceRefused(refusal.reason, refusal.message, has_row=True)
    raise refusal


@transaction.atomic
def drop_resource(*, namespace: str, name: str, groups: Iterable[str], uid: str | None = None) -> bool:
    """Delete the tunnel that a resource of one of these groups asked for, and asks for no more.

    The customer goes with the last tunnel where resources made it and staff have left it as it was made: that it is
    suspended, say, is not forgotten because somebody deletes all tunnels and makes them anew. What staff decided about
    the tunnel is kept for when it comes back.

    Args:
        uid: of the resource that is gone; the tunnel stays where another one asks for it meanwhile.

    Returns:
        Whether there was such a tunnel.
    """
    tunnel = _lock_tunnel(namespace, name)
    if tunnel is None or tunnel.source != Source.RESOURCE or tunnel.resource_group not in groups:
        return False
    if uid is not None and tunnel.status.resource_uid != uid:
        return False
    customer, actor = tunnel.customer, Actor(f"Tunnel resource ({tunnel.resource_group})")
    _keep_decisions(tunnel)
    delete_tunnel(tunnel=tunnel, resource=Resource(tunnel.resource_group), actor=actor)
    if customer.source == Source.RESOURCE and _is_untouched(customer) and not customer.tunnels.exists():
        delete_customer(customer=customer, actor=actor)
    return True


def find_tunnel(namespace: str, name: str) -> Tunnel | None:
    """Find the tunnel of this name of the customer whose namespace it is."""
    return Tunnel.objects.select_related("customer", "status").filter(customer__name=namespace, name=name).first()


def is_being_removed(namespace: str, name: str) -> bool:
    """Say whether a tunnel of this name was deleted, and what it had in the cluster may be there still."""
    return Leftover.objects.filter(customer_name=namespace, tunnel_name__in=("", name)).exists()


def list_taken(groups: Iterable[str]) -> dict[tuple[str, str], tuple[TunnelResource, bool]]:
    """Say what the resources of these groups asked for that is in the rows: three queries.

    Returns:
        By namespace and name; with it, whether a later change of it was refused.
    """
    rows = Tunnel.objects.filter(source=Source.RESOURCE, resource_group__in=list(groups))
    rows = rows.select_related("customer", "status").prefetch_related("ports", "hosts")
    return {
        (row.customer.name, row.name): (
            TunnelResource(
                group=row.resource_group,
                namespace=row.customer.name,
                name=row.name,
                uid=row.status.resource_uid,
                generation=row.status.resource_generation,
                tcp_ports=tuple(sorted(port.port for port in row.ports.all() if port.kind == TunnelPort.Kind.TCP)),
                host_names=tuple(sorted(host.name for host in row.hosts.all())),
                access=row.access,
                expires_at=row.expires_at,
                token_secret=row.token_secret,
                token_key=row.token_key,
            ),
            bool(row.status.refusal),
        )
        for row in rows
    }


def describe_errors(error: ValidationError) -> str:
    """Say in one line what is wrong, each mistake after the place in the resource where it was made."""
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    return " ".join(
        f"{PATHS[field]}: {' '.join(messages)}" if field in PATHS else " ".join(messages)
        for field, messages in error.message_dict.items()
    )


def _take(resource: TunnelResource, row: Tunnel | None, takes_over: bool) -> Tunnel:
    if row is not None:
        _check_holder(resource, row, takes_over)
        if _is_outdated(resource, row):
            return row
    _check_words(resource)
    actor = Actor(f"Tunnel resource ({resource.group})")
    asked = Resource(resource.group, resource.token_secret, resource.token_key)
    wanted: dict[str, Any] = {
        "tcp_ports": resource.tcp_ports,
        "host_names": [str(name) for name in resource.host_names],
        "access": resource.access,
        "expires_at": resource.expires_at,
        "resource": asked,
        "actor": actor,
    }
    if row is None:
        customer = _find_customer(resource, actor)
        tunnel = create_tunnel(customer=customer, name=resource.name, **wanted, **_take_decisions(resource))
    else:
        tunnel = update_tunnel(tunnel=row, **wanted)
        if row.resource_group != resource.group:
            change = {"resource_group": {"from": row.resource_group, "to": resource.group}}
            Tunnel.objects.filter(pk=row.pk).update(resource_group=resource.group)
            record_event(actor=actor, verb="tunnel.update", tunnel=row, details=change)
            touch_tunnels([row.pk])
    _record_look(tunnel, resource, {}, is_told=row is None or tunnel.generation != row.generation)
    return tunnel


def _lock_tunnel(namespace: str, name: str) -> Tunnel | None:
    """Lock a tunnel after its customer, as whoever suspends a customer does.

    The customer is locked where it has no such tunnel as well.
    """
    customer = Customer.objects.select_for_update().filter(name=namespace).first()
    rows = Tunnel.objects.select_for_update(of=("self",)).select_related("customer", "status")
    return None if customer is None else rows.filter(customer=customer, name=name).first()


def _is_outdated(resource: TunnelResource, row: Tunnel) -> bool:
    """Say whether a later version of the resource was looked at before: by another process, that leads by now."""
    return resource.uid == row.status.resource_uid and resource.generation < row.status.resource_generation


def _check_place(resource: TunnelResource, check_namespace: Callable[[], None]) -> None:
    """Refuse a new tunnel where none may be."""
    scope = settings.MOORLINE_TUNNELS_NAMESPACE
    if scope and resource.namespace != scope:
        raise ResourceRefused(
            "OutsideScope", f"This installation serves the namespace {scope} alone. Move the resource there."
        )
    try:
        check_namespace_name(resource.namespace)
    except ValidationError as error:  # which no label would change
        raise _not_allowed(resource, error) from error
    # Whoever installed Moorline for one namespace has said by that what labels say of others.
    if not scope:
        check_namespace()


def _not_allowed(resource: TunnelResource, error: ValidationError) -> ResourceRefused:
    messages = " ".join(error.messages)
    return ResourceRefused(
        "NamespaceNotAllowed", f"The namespace {resource.namespace} cannot be a customer's: {messages}"
    )


def _find_customer(resource: TunnelResource, actor: Actor) -> Customer:
    name = resource.namespace
    customer = Customer.objects.filter(name=name).first()
    if customer is not None:
        return customer
    try:
        return create_customer(name=name, source=Source.RESOURCE, actor=actor)
    except ValidationError as error:
        made_meanwhile = Customer.objects.filter(name=name).first()
        if made_meanwhile is not None:
            return made_meanwhile
        raise _not_allowed(resource, error) from error


def _check_holder(resource: TunnelResource, row: Tunnel, takes_over: bool) -> None:
    """Refuse a resource whose name is another's."""
    if row.source == Source.PORTAL:
        raise ResourceRefused(
            "NameTaken",
            f"The portal has a tunnel {resource}. Give this resource another name, or delete the tunnel in the portal.",
        )
    if row.resource_group != resource.group and not takes_over:
        raise ResourceRefused(
            "NameTaken",
            f"The resource {row.name} of {row.resource_group} is this tunnel already. Delete that one, and this one "
            f"takes its place: kubectl delete tunnels.{row.resource_group} {row.name} -n {resource.namespace}",
        )


def _check_words(resource: TunnelResource) -> None:
    """Refuse what the rows have no place for, and so would not refuse."""
    if resource.token_namespace and resource.token_namespace != resource.namespace:
        # With the rights of Moorline it would read a Secret that whoever wrote the resource may have no right to.
        raise ResourceRefused(
            "TokenElsewhere",
            f"spec.tokenRef.namespace is {resource.token_namespace[:63]}. Put the Secret into {resource.namespace}, "
            "the namespace of this resource, and leave tokenRef.namespace out.",
        )
    secret = resource.token_secret
    if secret and (len(secret) > HOST_LENGTH or not re.fullmatch(HOST_PATTERN, secret)):
        raise ResourceRefused("InvalidSpec", f"spec.tokenRef.name: “{secret[:80]}” is no name of a Secret.")
    if resource.token_key and not KEY_PATTERN.fullmatch(resource.token_key):
        raise ResourceRefused("InvalidSpec", f"spec.tokenRef.key: “{resource.token_key[:80]}” is no key of a Secret.")
    if resource.mistake:
        raise ResourceRefused("InvalidSpec", resource.mistake)


@transaction.atomic
def _record_refusal(resource: TunnelResource, refusal: ResourceRefused) -> bool:
    """Note what is wrong with a resource in the row that an earlier version of it has.

    Returns:
        Whether it has one.
    """
    row = _lock_tunnel(resource.namespace, resource.name)
    if row is None or row.source != Source.RESOURCE or row.resource_group != resource.group:
        return False
    if not _is_outdated(resource, row):
        _record_look(row, resource, {"reason": refusal.reason, "message": refusal.message})
    return True


def _record_look(tunnel: Tunnel, resource: TunnelResource, refusal: dict[str, str], *, is_told: bool = False) -> None:
    """Note which version of the resource was looked at and what is wrong with it.

    Args:
        is_told: whether the reconciler has work on the tunnel anyway; else it gets some where there is news.
    """
    status = TunnelStatus.objects.get(pk=tunnel.pk)
    look = {"resource_uid": resource.uid, "resource_generation": resource.generation, "refusal": refusal}
    if any(getattr(status, field) != value for field, value in look.items()):
        TunnelStatus.objects.filter(pk=tunnel.pk).update(**look)
        if not is_told:
            touch_tunnels([tunnel.pk])


def _keep_decisions(tunnel: Tunnel) -> None:
    """Keep what staff decided about a tunnel that goes, and which of its tokens are to open no tunnel again."""
    decided = {field: getattr(tunnel, field) for field in DECIDED_FIELDS}
    as_made = Tunnel()
    if any(value != getattr(as_made, field) for field, value in decided.items()):
        StaffDecision.objects.update_or_create(
            customer_name=tunnel.customer.name, tunnel_name=tunnel.name, defaults=decided
        )
    revoked = tunnel.tokens.exclude(revoked_at=None)
    RevokedHash.objects.bulk_create(
        [RevokedHash(hash=token.hash, revoked_at=token.revoked_at) for token in revoked if token.revoked_at],
        ignore_conflicts=True,
    )


def _take_decisions(resource: TunnelResource) -> dict[str, Any]:
    """Return what staff decided about a tunnel before its resource went away; from now on the row says so."""
    found = StaffDecision.objects.filter(customer_name=resource.namespace, tunnel_name=resource.name)
    decided = found.values(*DECIDED_FIELDS).first() or {}
    found.delete()
    return dict(decided)


def _is_untouched(customer: Customer) -> bool:
    said_by_staff = (customer.display_name, customer.contact_email, customer.resource_quota)
    return not (customer.suspended or customer.isolated or any(said_by_staff))
