"""Bring rows to what Tunnel resources ask for. Nothing is remembered: each look reads both sides anew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import F
from django.urls import reverse
from django.utils import timezone

from portal.cluster import names
from portal.cluster.api import ApiRefused, KubernetesApi, Manifest
from portal.cluster.apply import differs, is_ours
from portal.cluster.render import RESOURCE_API, make_mirror
from portal.cluster.resource import (
    INLETS_GROUP,
    KINDS,
    ServedElsewhere,
    check_namespace,
    find_holder,
    is_going,
    is_mirror,
    is_told_of,
    make_event,
    make_refused_status,
    read_group,
    read_resource,
    refuse_mirror,
    sort_by_age,
)
from portal.cluster.spec import Installation, read_tunnels
from portal.models import Source, Tunnel, TunnelStatus
from portal.services.resources import (
    ResourceRefused,
    TunnelResource,
    drop_resource,
    find_tunnel,
    is_being_removed,
    list_taken,
    take_resource,
)
from portal.services.tunnels import clean_host_names, clean_tcp_ports
from portal.services.work import touch_tunnels

log = logging.getLogger(__name__)

Name = tuple[str, str]  # namespace, name

HTTP_NOT_FOUND: Final = 404


class NotLeading(Exception):
    """Another process may lead by now, and what was seen here may be old."""


class Intake:
    """Tunnel resources of some API groups on one side, rows on the other.

    Each call raises `Unreachable` and `ApiRefused` as the API server says, `NotLeading`, and Django's database errors.

    Args:
        groups: the API groups that are served.
        installation: whose mirrors are ours.
        is_leading: asked before each write.
    """

    def __init__(
        self,
        api: KubernetesApi,
        groups: Sequence[str],
        installation: Installation,
        is_leading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = api
        self._is_leading = is_leading
        self._groups = tuple(groups)
        self._installation = installation

    def find_served(self) -> set[str]:
        """Say for which groups the cluster has Tunnel resources."""
        return set(self._list_all())

    def find_unsettled(self) -> tuple[set[Name], set[str]]:
        """Compare all resources with all rows.

        Returns:
            The names to `settle`, and the groups for which the cluster has Tunnel resources.
        """
        listed = self._list_all()
        live: dict[Name, list[Manifest]] = {}
        for bodies in listed.values():
            for body in bodies:
                live.setdefault(_name_of(body), []).append(body)
        taken, mirrors = list_taken(self._groups), self._make_mirrors(live)
        unsettled = {
            name
            for name, bodies in live.items()
            if not self._is_surely_settled(bodies, taken.get(name), mirrors.get(name))
        }
        # Only of groups that were listed to the end; where none were, nothing is known.
        gone = {name for name, (resource, _) in taken.items() if name not in live and resource.group in listed}
        return unsettled | gone, set(listed)

    def settle(self, namespace: str, name: str) -> None:
        """Take in what resources of one name ask for, tell those that are refused, drop what none asks for."""
        bodies = [body for group in self._groups if (body := self._api.get(KINDS[group], namespace, name)) is not None]
        bodies = sort_by_age([body for body in bodies if not is_going(body)])
        row = find_tunnel(namespace, name)
        if row is not None and row.source == Source.PORTAL:
            mirrors = self._guard_mirror(row, bodies)
            self._take([body for body in bodies if body not in mirrors])
        elif row is None:
            self._take([body for body in bodies if not is_mirror(body)])
            for body in bodies:
                if is_mirror(body):
                    self._tell_stray(body)
        else:
            self._settle_row(row, bodies)

    # -- tunnels of resources -----------------------------------------------------------------------------------------

    def _settle_row(self, row: Tunnel, bodies: list[Manifest]) -> None:
        if any(read_group(body) == row.resource_group for body in bodies):
            self._take(sorted(bodies, key=lambda body: read_group(body) != row.resource_group))
        elif row.resource_group in self._groups and not self._is_gone(row):
            log.warning("The Tunnel resource of %s cannot be found; its tunnel stays until that is sure.", row)
        elif bodies:
            self._take(bodies, takes_over=True)
        else:
            self._check_lead()
            uid = row.status.resource_uid
            if drop_resource(namespace=row.customer.name, name=row.name, groups=self._groups, uid=uid):
                log.info("The Tunnel resource of %s is gone, and its tunnel with it.", row)

    def _take(self, bodies: Sequence[Manifest], *, takes_over: bool = False) -> None:
        """Take in resources of one name: the first that can be has the name."""
        for place, body in enumerate(bodies):
            resource = read_resource(body)
            self._check_lead()
            try:
                take_resource(
                    resource=resource,
                    check_namespace=partial(self._check_namespace, resource),
                    takes_over=takes_over and place == 0,
                )
            except ResourceRefused as refused:
                if not refused.has_row:
                    self._tell(body, refused)

    def _tell_stray(self, body: Manifest) -> None:
        """Tell a resource that is labelled as a mirror and mirrors nothing, unless it is about to be deleted."""
        is_ours = find_holder(body) == self._installation.name
        if not (is_ours and is_being_removed(*_name_of(body))):
            self._tell(body, refuse_mirror(body, self._installation.name))

    def _tell(self, body: Manifest, refused: ResourceRefused) -> None:
        status = make_refused_status(body, refused, timezone.now())
        if status == body.get("status") or (isinstance(refused, ServedElsewhere) and is_told_of(body)):
            return
        namespace, name = _name_of(body)
        self._check_lead()
        log.info("The Tunnel resource %s/%s is refused: %s", namespace, name, refused.message)
        try:
            self._api.merge_status(KINDS[read_group(body)], namespace, name, status)
        except ApiRefused as error:
            if error.status != HTTP_NOT_FOUND:  # deleted meanwhile
                raise

    def _check_namespace(self, resource: TunnelResource) -> None:
        """Refuse a new tunnel where the namespace is not for them."""
        name, inlets = resource.namespace, INLETS_GROUP in self._groups
        check_namespace(self._api.get("Namespace", "", name), name, self._installation.name, inlets=inlets)
        self._check_lead()

    def _check_lead(self) -> None:
        if not self._is_leading():
            raise NotLeading("another process leads by now, and looks for itself.")

    def _is_gone(self, row: Tunnel) -> bool:
        """Say whether it is sure that no resource asks for a tunnel any more.

        That one object is not found can also mean that the API server does not know of such objects yet.
        """
        try:
            left = self._api.list_all(KINDS[row.resource_group], row.customer.name)
        except ApiRefused as refused:
            if refused.status == HTTP_NOT_FOUND:
                return False
            raise
        return not any(body["metadata"]["name"] == row.name and not is_going(body) for body in left)

    # -- mirrors of tunnels of the portal -----------------------------------------------------------------------------

    def _guard_mirror(self, row: Tunnel, bodies: Collection[Manifest]) -> list[Manifest]:
        """Have the reconciler change a mirror back that somebody edited or deleted, and tell them so.

        Returns:
            The mirror, where it is there.
        """
        found = [body for body in bodies if read_group(body) == names.DOMAIN]
        specs = read_tunnels([row.pk])
        if not specs:  # deleted meanwhile, and the mirror will be as well
            return found
        desired = make_mirror(self._installation, specs[0])
        if found and not is_ours(found[0], desired):
            return []
        if found and not differs(desired, found[0]):
            return found
        # Where the reconciler has work to do, the difference is most likely what it is about to write.
        is_settled = TunnelStatus.objects.filter(pk=row.pk, revision=F("applied_revision")).exists()
        is_by_hand = is_settled and not self._has_moved(row, found)
        self._check_lead()
        touch_tunnels([row.pk])
        if is_by_hand:
            self._tell_reverted(row, found)
        return found

    def _make_mirrors(self, live: Collection[Name]) -> dict[Name, Manifest]:
        """Return what the resources of these names have to be that mirror tunnels of the portal."""
        rows = Tunnel.objects.filter(source=Source.PORTAL).values_list("pk", "customer__name", "name")
        specs = read_tunnels([pk for pk, *name in rows if tuple(name) in live])
        return {(spec.customer, spec.name): make_mirror(self._installation, spec) for spec in specs}

    def _has_moved(self, row: Tunnel, seen: Sequence[Manifest]) -> bool:
        """Say whether a mirror was written since it was *seen*, and may no longer differ from the row."""
        now = self._api.get(KINDS[names.DOMAIN], row.customer.name, row.name)
        versions = [body["metadata"].get("resourceVersion") for body in (*seen, *([now] if now else []))]
        return len(versions) != 2 * len(seen) or len(set(versions)) > 1

    def _tell_reverted(self, row: Tunnel, found: Sequence[Manifest]) -> None:
        metadata = {"namespace": row.customer.name, "name": row.name}
        body = found[0] if found else {"apiVersion": RESOURCE_API, "metadata": metadata}
        change = "changed back" if found else "made anew"
        url = settings.MOORLINE_PUBLIC_URL + reverse("admin:portal_tunnel_change", args=[row.pk])
        message = f"The portal manages this tunnel, so the resource is {change}. Change or delete the tunnel at {url}"
        log.info("The Tunnel resource %s mirrors a tunnel of the portal; an edit of it is reverted.", row)
        try:
            self._api.create(make_event(body, message, self._installation.name, timezone.now()))
        except ApiRefused as refused:
            log.warning("No Event says that an edit of %s is reverted: %s", row, refused.message)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _list_all(self) -> dict[str, list[Manifest]]:
        """Return all resources of each group that the cluster knows."""
        listed = {}
        for group in self._groups:
            try:
                listed[group] = self._api.list_all(KINDS[group], self._installation.scope)
            except ApiRefused as refused:
                if refused.status != HTTP_NOT_FOUND:
                    raise
        return listed

    # -- comparing ----------------------------------------------------------------------------------------------------

    def _is_surely_settled(
        self, bodies: Sequence[Manifest], taken: tuple[TunnelResource, bool] | None, mirror: Manifest | None
    ) -> bool:
        """Say the same as `_is_settled`; what cannot be compared is looked at by itself, and holds up no other."""
        try:
            return self._is_settled(bodies, taken, mirror)
        except Exception as error:
            log.warning("The Tunnel resource %s/%s cannot be compared: %r", *_name_of(bodies[0]), error)
            return False

    def _is_settled(
        self, bodies: Sequence[Manifest], taken: tuple[TunnelResource, bool] | None, mirror: Manifest | None
    ) -> bool:
        """Say whether the rows are as the resources of one name ask for; what is refused is looked at again each time.

        Args:
            taken: what the row of a resource says, and whether a change was refused.
            mirror: what the resource has to be, where its tunnel is the portal's.
        """
        if mirror is not None:
            return all(read_group(body) == names.DOMAIN and not differs(mirror, body) for body in bodies)
        if taken is None:
            return all(is_going(body) or self._mirrors_elsewhere(body) for body in bodies)
        resource, is_refused = taken
        return not is_refused and len(bodies) == 1 and not is_going(bodies[0]) and _clean(bodies[0]) == resource

    def _mirrors_elsewhere(self, body: Manifest) -> bool:
        """Say whether a resource mirrors a tunnel of the portal of another installation, which keeps its status."""
        is_foreign = find_holder(body) not in ("", self._installation.name)
        return is_mirror(body) and is_foreign and is_told_of(body)


def _clean(body: Manifest) -> TunnelResource | None:
    """Read a resource in the form that rows keep it in; None where that cannot be."""
    resource = read_resource(body)
    if resource.mistake or resource.token_namespace not in ("", resource.namespace):
        return None
    try:
        ports: tuple[Any, ...] = clean_tcp_ports(resource.tcp_ports)
        hosts = clean_host_names(str(name) for name in resource.host_names)
    except ValidationError:
        return None
    return replace(resource, tcp_ports=ports, host_names=hosts, token_namespace="")


def _name_of(body: Manifest) -> Name:
    return body["metadata"]["namespace"], body["metadata"]["name"]
