"""Create, change, suspend and delete customers."""

from __future__ import annotations

from django.db import transaction
from django.db.models import F

from portal.models import Customer
from portal.notices import publish_on_commit
from portal.services.events import Actor, record_event
from portal.services.rows import insert_row


@transaction.atomic
def create_customer(*, name: str, display_name: str = "", contact_email: str = "", actor: Actor) -> Customer:
    """Create a customer.

    Raises:
        ValidationError: keyed by field.
    """
    customer = Customer(name=name, display_name=display_name, contact_email=contact_email)
    insert_row(customer)
    record_event(actor=actor, verb="customer.create", customer=customer)
    return customer


@transaction.atomic
def update_customer(
    *, customer: Customer, display_name: str | None = None, contact_email: str | None = None, actor: Actor
) -> Customer:
    """Change what is said about a customer; ``None`` leaves a field as it is. The name stays for ever.

    Returns:
        The customer as it is now.

    Raises:
        ValidationError: keyed by field.
    """
    customer = _lock(customer)
    wanted = {"display_name": display_name, "contact_email": contact_email}
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
    """Delete a customer with its tunnels, their tokens and the record of their sessions. The audit trail stays."""
    customer = _lock(customer)
    tunnels = dict(customer.tunnels.order_by("pk").values_list("pk", "name"))
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
    publish_on_commit(customer.tunnels.values_list("pk", flat=True))
    return customer


def _lock(customer: Customer) -> Customer:
    """Read the row anew, so that no change made in between is lost."""
    return Customer.objects.select_for_update().get(pk=customer.pk)
