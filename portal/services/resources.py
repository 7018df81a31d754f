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

from portal.models import Customer, Source, Tunnel, TunnelPort, TunnelStatus
from portal.models.names import HOST_LENGTH, HOST_PATTERN
from portal.services.customers import create_customer, delete_customer
from portal.services.events import Actor, record_event
from portal.services.tunnels import Resource, create_tunnel, delete_tunnel, update_tunnel
from portal.services.work import touch_tunnels

LABEL: Final = "moorline.dev/uplink=1"
KEY_PATTERN: Final = re.compile(rf"[-._a-zA-Z0-9]{{1,{HOST_LENGTH}}}")
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
    *, resource: TunnelResource, is_labelled: Callable[[], bool] = lambda: True, takes_over: bool = False
) -> Tunnel:
    """Create or change the tunnel that a resource asks for, and the customer where there is none.

    Nothing is written where all is so already. A change that is refused leaves the row as it was, and the refusal with
    it for the reconciler to tell.

    Args:
        is_labelled: says whether tunnels may be made in the namespace; asked only where the tunnel is new.
        takes_over: whether the resource that the tunnel was made by is gone, and this one stands in for it.

    Raises:
        ResourceRefused: with what to do.
    """
    actor = _actor(resource)
    row = find_tunnel(resource.namespace, resource.name)
    try:
        with transaction.atomic():
            return _take(resource, row, is_labelled, takes_over, actor)
    except ResourceRefused as refused:
        refusal = refused
    except ValidationError as error:
        refusal = ResourceRefused("InvalidSpec", describe_errors(error))
    if row is not None and row.source == Source.RESOURCE and row.resource_group == resource.group:
        _record_look(row, resource.generation, {"reason": refusal.reason, "message": refusal.message})
        raise ResourceRefused(refusal.reason, refusal.message, has_row=True)
    raise refusal


@transaction.atomic
def drop_resource(*, namespace: str, name: str, groups: Iterable[str]) -> bool:
    """Delete the tunnel that a resource of one of these groups asked for, and asks for no more.

    The customer goes with the last tunnel where resources made it and staff have left it as it was made: that it is
    suspended, say, is not forgotten because somebody deletes all tunnels and makes them anew.

    Returns:
        Whether there was such a tunnel.
    """
    tunnel = find_tunnel(namespace, name)
    if tunnel is None or tunnel.source != Source.RESOURCE or tunnel.resource_group not in groups:
        return False
    customer, resource = tunnel.customer, Resource(tunnel.resource_group)
    actor = Actor(f"Tunnel resource ({tunnel.resource_group})")
    delete_tunnel(tunnel=tunnel, resource=resource, actor=actor)
    customer = Customer.objects.select_for_update().get(pk=customer.pk)
    if customer.source == Source.RESOURCE and _is_untouched(customer) and not customer.tunnels.exists():
        delete_customer(customer=customer, actor=actor)
    return True


def find_tunnel(namespace: str, name: str) -> Tunnel | None:
    """Find the tunnel of this name of the customer whose namespace it is."""
    return Tunnel.objects.select_related("customer", "status").filter(customer__name=namespace, name=name).first()


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


def _take(
    resource: TunnelResource, row: Tunnel | None, is_labelled: Callable[[], bool], takes_over: bool, actor: Actor
) -> Tunnel:
    if row is not None:
        _check_holder(resource, row, takes_over)
    _check_token(resource)
    if resource.mistake:
        raise ResourceRefused("InvalidSpec", resource.mistake)
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
        customer = _find_customer(resource, is_labelled, actor)
        tunnel = create_tunnel(customer=customer, name=resource.name, **wanted)
    else:
        tunnel = update_tunnel(tunnel=row, **wanted)
        if row.resource_group != resource.group:
            change = {"resource_group": {"from": row.resource_group, "to": resource.group}}
            Tunnel.objects.filter(pk=row.pk).update(resource_group=resource.group)
            record_event(actor=actor, verb="tunnel.update", tunnel=row, details=change)
            touch_tunnels([row.pk])
    _record_look(tunnel, resource.generation, {}, is_told=row is None or tunnel.generation != row.generation)
    return tunnel


def _find_customer(resource: TunnelResource, is_labelled: Callable[[], bool], actor: Actor) -> Customer:
    name = resource.namespace
    scope = settings.MOORLINE_TUNNELS_NAMESPACE
    if scope and name != scope:
        raise ResourceRefused(
            "OutsideScope", f"This installation serves the namespace {scope} alone. Move the resource there."
        )
    # Whoever installed Moorline for one namespace has said by that what the label says of others.
    if not scope and not is_labelled():
        raise ResourceRefused(
            "NamespaceNotLabelled",
            f"No tunnels may be made in this namespace. Allow it with: kubectl label namespace {name} {LABEL}",
        )
    customer = Customer.objects.filter(name=name).first()
    if customer is not None:
        return customer
    try:
        return create_customer(name=name, source=Source.RESOURCE, actor=actor)
    except ValidationError as error:
        made_meanwhile = Customer.objects.filter(name=name).first()
        if made_meanwhile is not None:
            return made_meanwhile
        messages = " ".join(error.messages)
        raise ResourceRefused(
            "NamespaceNotAllowed", f"The namespace {name} cannot be a customer's: {messages}"
        ) from error


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


def _check_token(resource: TunnelResource) -> None:
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


def _record_look(tunnel: Tunnel, generation: int, refusal: dict[str, str], *, is_told: bool = False) -> None:
    """Note which version of the resource was looked at and what is wrong with it.

    Args:
        is_told: whether the reconciler has work on the tunnel anyway; else it gets some where there is news.
    """
    status = TunnelStatus.objects.get(pk=tunnel.pk)
    if (status.resource_generation, status.refusal) != (generation, refusal):
        TunnelStatus.objects.filter(pk=tunnel.pk).update(resource_generation=generation, refusal=refusal)
        if not is_told:
            touch_tunnels([tunnel.pk])


def _is_untouched(customer: Customer) -> bool:
    said_by_staff = (customer.display_name, customer.contact_email, customer.resource_quota)
    return not (customer.suspended or customer.isolated or any(said_by_staff))


def _actor(resource: TunnelResource) -> Actor:
    return Actor(f"Tunnel resource ({resource.group})")
