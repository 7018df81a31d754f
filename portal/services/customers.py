"""Create, change, suspend and delete customers."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F

from portal.models import Customer, CustomerStatus, Source, TunnelPort
from portal.models.names import validate_customer_name
from portal.notices import publish_on_commit
from portal.services.events import Actor, record_event
from portal.services.ports import release_ports
from portal.services.rows import insert_row
from portal.services.work import leave_over, queue_reconcile_on_commit, touch_customers, touch_tunnels


@transaction.atomic
def create_customer(
    *,
    name: str,
    display_name: str = "",
    contact_email: str = "",
    resource_quota: dict[str, str] | None = None,
    isolated: bool = False,
    source: Source = Source.PORTAL,
    actor: Actor,
) -> Customer:
    """Create a customer.

    Args:
        resource_quota: of its namespace, such as ``{"count/services": "50"}``.
        isolated: whether the pods of its namespace take connections from that namespace alone.
        source: whether it is there for as long as custom resources ask for tunnels of it.

    Raises:
        ValidationError: keyed by field.
    """
    customer = Customer(
        name=name,
        display_name=display_name,
        contact_email=contact_email,
        resource_quota=resource_quota or {},
        isolated=isolated,
        source=source,
    )
    scope = settings.MOORLINE_TUNNELS_NAMESPACE
    if scope and name != scope:
        message = f"This installation serves the namespace {scope} alone. Name the customer {scope}."
        raise ValidationError({"name": ValidationError(message, code="scope")})
    insert_row(customer)
    check_namespace_name(name)
    CustomerStatus.objects.create(customer=customer)
    queue_reconcile_on_commit()
    record_event(actor=actor, verb="customer.create", customer=customer)
    return customer


def check_namespace_name(name: str) -> None:
    """Refuse a name that no customer may have, whoever asks for it.

    Raises:
        ValidationError: at ``name``.
    """
    try:
        validate_customer_name(name)
    except ValidationError as error:
        raise ValidationError({"name": error}) from error
    is_own = name == settings.MOORLINE_NAMESPACE and settings.MOORLINE_TARGET != "local"
    if is_own and not settings.MOORLINE_TUNNELS_NAMESPACE:
        message = f"{name} is the namespace of Moorline itself. Choose another name."
        raise ValidationError({"name": ValidationError(message, code="reserved")})


@transaction.atomic
def update_customer(
    *,
    customer: Customer,
    display_name: str | None = None,
    contact_email: str | None = None,
    resource_quota: dict[str, str] | None = None,
    isolated: bool | None = None,
    actor: Actor,
) -> Customer:
    """Change what is said about a customer; ``None`` leaves a field as it is. The name stays for ever.

    Returns:
        The customer as it is now.

    Raises:
        ValidationError: keyed by field.
    """
    customer = _lock(customer)
    wanted = {
        "display_name": display_name,
        "contact_email": contact_email,
        "resource_quota": resource_quota,
        "isolated": isolated,
    }
    changes = {
        field: {"from": getattr(customer, field), "to": value}
        for field, value in wanted.items()
        if value is not None and value != getattr(customer, field)
    }
    if not changes:
        return customer
    for field, change in changes.items():
        setattr(customer, field, change["to"])
    customer.full_clean()
    customer.save(update_fields=list(changes))
    touch_customers([customer.pk])
    record_event(actor=actor, verb="customer.update", customer=customer, details=changes)
    return customer


@transaction.atomic
def suspend_customer(*, customer: Customer, actor: Actor) -> Customer:
    """End every session of a customer and let no client connect; nothing happens when it is suspended already."""
    return _set_suspended(customer, True, "customer.suspend", actor)


@transaction.atomic
def resume_customer(*, customer: Customer, actor: Actor) -> Customer:
    """Let the clients of a suspended customer connect again; nothing happens when it is not suspended."""
    return _set_suspended(customer, False, "customer.resume", actor)


@transaction.atomic
def delete_customer(*, customer: Customer, actor: Actor) -> None:
    """Delete a customer with its tunnels, their tokens and the record of their sessions. The audit trail stays.

    Raises:
        ValidationError: when custom resources ask for tunnels of it, which would bring it back.
    """
    customer = _lock(customer)
    asked_for = customer.tunnels.filter(source=Source.RESOURCE).values_list("name", flat=True)[:3]
    if asked_for:
        message = (
            f"Tunnel resources in the cluster ask for tunnels of {customer}: {', '.join(asked_for)}. Delete those "
            f"first: kubectl delete tunnels --all -n {customer}."
        )
        raise ValidationError(message, code="resource")
    tunnels = dict(customer.tunnels.order_by("pk").values_list("pk", "name"))
    release_ports(TunnelPort.objects.filter(tunnel__customer=customer))
    for name in tunnels.values():
        leave_over(customer_name=customer.name, tunnel_name=name)
    # A namespace in which resources asked for the customer is theirs, whoever made it.
    made = customer.source == Source.PORTAL and CustomerStatus.objects.get(customer=customer).made_namespace
    leave_over(customer_name=customer.name, made_namespace=made)
    record_event(actor=actor, verb="customer.delete", customer=customer, details={"tunnels": sorted(tunnels.values())})
    customer.delete()
    publish_on_commit(tunnels)


def _set_suspended(customer: Customer, suspended: bool, verb: str, actor: Actor) -> Customer:
    customer = _lock(customer)
    if customer.suspended is suspended:
        return customer
    customer.suspended = suspended
    customer.save(update_fields=["suspended"])
    customer.tunnels.update(generation=F("generation") + 1)
    record_event(actor=actor, verb=verb, customer=customer)
    tunnel_ids = list(customer.tunnels.values_list("pk", flat=True))
    touch_tunnels(tunnel_ids)
    publish_on_commit(tunnel_ids)
    return customer


def _lock(customer: Customer) -> Customer:
    """Read the row anew, so that no change made in between is lost.

    The lock leaves room for rows that refer to this one, such as the event of a tunnel's change.
    """
    return Customer.objects.select_for_update(no_key=True).get(pk=customer.pk)
