"""Where what is desired is brought to: a Kubernetes cluster, or this machine, where there is nothing to bring.

`make_target` is the one place that asks which of them it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, Protocol

from django.conf import settings

from portal.cluster import names, render
from portal.cluster.api import ApiRefused, KubernetesApi, Manifest, connect
from portal.cluster.apply import Change, Key, Observed, Problem, bring, differs, explain_refusal, is_ours, key_of
from portal.cluster.spec import NAME_TAKEN, CustomerSpec, Installation, TunnelSpec, read_installation
from portal.models import Source

# From so many tunnels on, a list of the whole cluster is cheaper than one in each namespace.
WHOLE_FROM: Final = 10


class Target(Protocol):
    """What the reconciler asks of the place. Calls raise `Unreachable` where it does not answer."""

    in_place: str  # the sentence of the condition when all is as desired

    def observe(self, tunnels: Sequence[TunnelSpec] | None) -> Observed:
        """Return the objects of ours for these tunnels, or all of them."""
        ...

    def bring_tunnel(self, tunnel: TunnelSpec, live: Observed, ends: float) -> Change:
        """Bring the objects of one tunnel to what is desired, and prune, until *ends* by `time.monotonic`."""
        ...

    def bring_customer(self, customer: CustomerSpec) -> Change:
        """Bring a customer's namespace, and what it holds for the customer as a whole, to what is desired."""
        ...

    def bring_policy(self, restricted: Sequence[int]) -> Change:
        """Open the gateways' listen ports to the cluster, but for those that a tunnel restricts."""
        ...

    def write_status(self, tunnel: TunnelSpec, live: Observed, conditions: Sequence[Mapping[str, Any]]) -> bool:
        """Write the status of the tunnel's resource; return whether that took a write."""
        ...

    def remove_tunnel(self, customer: str, tunnel: str) -> Change:
        """Delete everything of a tunnel that has no row any more."""
        ...

    def remove_customer(self, customer: str, *, made_namespace: bool) -> Change:
        """Delete what was a customer's as a whole; its namespace too, if *made_namespace*."""
        ...


class LocalTarget:
    """A machine without a cluster: gateways listen on its own addresses, and nothing else is needed."""

    in_place = "Gateways listen on this machine."

    def observe(self, tunnels: Sequence[TunnelSpec] | None) -> Observed:
        return Observed(read_installation())

    def bring_tunnel(self, tunnel: TunnelSpec, live: Observed, ends: float) -> Change:
        return Change()

    def bring_customer(self, customer: CustomerSpec) -> Change:
        return Change()

    def bring_policy(self, restricted: Sequence[int]) -> Change:
        return Change()

    def write_status(self, tunnel: TunnelSpec, live: Observed, conditions: Sequence[Mapping[str, Any]]) -> bool:
        return False

    def remove_tunnel(self, customer: str, tunnel: str) -> Change:
        return Change()

    def remove_customer(self, customer: str, *, made_namespace: bool) -> Change:
        return Change()


class KubernetesTarget:
    """One cluster."""

    in_place = "Services and endpoints are in place."

    def __init__(self, api: KubernetesApi, installation: Installation, listen_ports: range) -> None:
        self.api = api
        self.installation = installation
        self._listen_ports = listen_ports

    # -- tunnels ------------------------------------------------------------------------------------------------------

    def observe(self, tunnels: Sequence[TunnelSpec] | None) -> Observed:
        if tunnels is None or len(tunnels) >= WHOLE_FROM or self.installation.scope:
            places: set[tuple[str, str]] = {(self.installation.scope, "")}
        else:
            places = {(tunnel.customer, tunnel.name) for tunnel in tunnels}
        found: list[Manifest] = []
        known: set[str] = set()
        for namespace, tunnel in sorted(places):
            found += self._list_kinds(("Service", "EndpointSlice"), namespace, tunnel)
            for kind, resources in self._list_resources(namespace).items():
                known.add(kind)
                found += resources
        if self.installation.network_policies:
            only = tunnels[0].name if tunnels is not None and len(tunnels) == 1 else ""
            found += self._list_kinds(("NetworkPolicy",), self.installation.namespace, only)
        return Observed(self.installation, found, known)

    def bring_tunnel(self, tunnel: TunnelSpec, live: Observed, ends: float) -> Change:
        scope = self.installation.scope
        if scope and tunnel.customer != scope:
            return Change(problems=[Problem("OutsideScope", f"This installation serves the namespace {scope} alone.")])
        if tunnel.blocked:
            return Change(problems=[Problem(NAME_TAKEN, tunnel.blocked)])
        desired = self.render(tunnel, live)
        change = bring(self.api, desired, live.objects, live.of_tunnel(tunnel.customer, tunnel.name), ends)
        if tunnel.access and not self.installation.network_policies:
            change.problems.append(
                Problem(
                    "AccessNotEnforced",
                    "The tunnel restricts who may connect, and this installation keeps no NetworkPolicies. Set "
                    "networkPolicy.enabled in the chart's values, or remove the restriction.",
                )
            )
        return change

    def render(self, tunnel: TunnelSpec, live: Observed) -> list[Manifest]:
        """Return what is desired for a tunnel; where the cluster knows no Tunnel resources, without its mirror."""
        desired = render.render_tunnel(self.installation, tunnel)
        return [manifest for manifest in desired if manifest["kind"] != "Tunnel" or "Tunnel" in live.resources]

    def is_as_desired(self, tunnel: TunnelSpec, live: Observed) -> bool:
        """Say whether there is nothing to write for a tunnel."""
        desired = self.render(tunnel, live)
        keys = {key_of(manifest) for manifest in desired}
        return all(not differs(manifest, live.objects.get(key_of(manifest))) for manifest in desired) and all(
            key_of(manifest) in keys for manifest in live.of_tunnel(tunnel.customer, tunnel.name)
        )

    def write_status(self, tunnel: TunnelSpec, live: Observed, conditions: Sequence[Mapping[str, Any]]) -> bool:
        key = _resource_key(tunnel)
        resource = live.objects.get(key)
        if resource is None and tunnel.source == Source.PORTAL and key[0] in live.resources:
            resource = self.api.get(*key)  # a mirror that was made just now
        if resource is None or not self._is_status_due(tunnel, resource, conditions):
            return False
        try:
            self.api.merge_status(*key, make_status(tunnel, resource, conditions))
        except ApiRefused as refused:
            if refused.status == 404:  # deleted meanwhile
                return False
            raise
        return True

    def has_other_status(self, tunnel: TunnelSpec, live: Observed, conditions: Sequence[Mapping[str, Any]]) -> bool:
        """Say whether the status of the tunnel's resource is not what is known of it."""
        resource = live.objects.get(_resource_key(tunnel))
        return resource is not None and self._is_status_due(tunnel, resource, conditions)

    def _is_status_due(self, tunnel: TunnelSpec, resource: Manifest, conditions: Sequence[Mapping[str, Any]]) -> bool:
        if tunnel.source == Source.PORTAL and not is_ours(resource, render.make_mirror(self.installation, tunnel)):
            return False  # somebody's own resource of the name of a tunnel of the portal: the watch says so there
        return differs(make_status(tunnel, resource, conditions), resource.get("status") or {})

    # -- customers and the installation -------------------------------------------------------------------------------

    def bring_customer(self, customer: CustomerSpec) -> Change:
        change = Change()
        if self.installation.scope:
            if customer.name != self.installation.scope:
                message = f"This installation serves the namespace {self.installation.scope} alone."
                return Change(problems=[Problem("OutsideScope", message)])
        else:
            problem = self._bring_namespace(customer, change)
            if problem is not None:
                change.problems.append(problem)
                return change
        found = self._list_kinds(("NetworkPolicy", "ResourceQuota"), customer.name)
        # Where the gateways run in the same namespace it holds policies of theirs as well.
        own = [manifest for manifest in found if manifest["metadata"]["name"] == names.CUSTOMER_OBJECT]
        live = {key_of(manifest): manifest for manifest in own}
        done = bring(self.api, render.render_customer(self.installation, customer), live, own)
        return Change(change.written + done.written, done.problems, change.made_namespace)

    def _bring_namespace(self, customer: CustomerSpec, change: Change) -> Problem | None:
        """Make the namespace of a customer, or adopt the one that is there."""
        name = customer.name
        desired = render.make_namespace(self.installation, name, is_new=False)
        try:
            live = self.api.get("Namespace", "", name)
            if live is None:
                if customer.source == Source.RESOURCE:
                    message = f"The namespace {name} is gone, and its Tunnel resources with it."
                    return Problem("NamespaceMissing", message)
                self.api.create(render.make_namespace(self.installation, name, is_new=True))
                change.written += 1
                change.made_namespace = True
                return None
            if live["metadata"].get("deletionTimestamp"):
                return Problem("NamespaceTerminating", f"The namespace {name} is being deleted; it is made anew then.")
            holder = (live["metadata"].get("labels") or {}).get(names.INSTALLATION, self.installation.name)
            if holder != self.installation.name:
                return Problem(
                    NAME_TAKEN,
                    f"The namespace {name} belongs to the installation {holder} of Moorline. Give the customer another "
                    f"name, or remove the label {names.INSTALLATION} from the namespace.",
                )
            if differs(desired, live):
                self.api.apply(desired)
                change.written += 1
        except ApiRefused as refused:
            return explain_refusal(refused, desired)
        return None

    def bring_policy(self, restricted: Sequence[int]) -> Change:
        if not self.installation.network_policies:
            return Change()
        desired = render.make_tunnels_policy(self.installation, self._listen_ports, restricted)
        live = self.api.find(*key_of(desired))
        return bring(self.api, [desired], {} if live is None else {key_of(desired): live})

    # -- what has no row any more -------------------------------------------------------------------------------------

    def remove_tunnel(self, customer: str, tunnel: str) -> Change:
        found = self._list_kinds(("Service", "EndpointSlice"), customer, tunnel)
        for resources in self._list_resources(customer).values():
            found += resources
        if self.installation.network_policies:
            found += self._list_kinds(("NetworkPolicy",), self.installation.namespace, tunnel)
        secret = self.api.get("Secret", customer, tunnel)
        found += [secret] if secret is not None else []
        return bring(self.api, [], {}, Observed(self.installation, found).of_tunnel(customer, tunnel))

    def remove_customer(self, customer: str, *, made_namespace: bool) -> Change:
        namespace = self.api.get("Namespace", "", customer) if not self.installation.scope else None
        annotations = (namespace or {}).get("metadata", {}).get("annotations") or {}
        # Both have to say so: somebody may have made it anew since, and anybody may annotate their own.
        is_ours = made_namespace and annotations.get(names.CREATED_BY) == self.installation.name
        if namespace is not None and is_ours:
            return bring(self.api, [], {}, [namespace])
        own = self._list_kinds(("NetworkPolicy", "ResourceQuota"), customer)
        change = bring(self.api, [], {}, [one for one in own if one["metadata"]["name"] == names.CUSTOMER_OBJECT])
        labels = (namespace or {}).get("metadata", {}).get("labels") or {}
        if labels.get(names.INSTALLATION) == self.installation.name:
            # Nothing desired any more lets go of the labels that are ours alone.
            self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": customer}})
            change.written += 1
        return change

    def observe_all(self) -> Observed:
        """Return every object of ours, the namespaces of customers and what they hold as a whole among them."""
        scope = self.installation.scope
        seen = self.observe(None)
        more = self._list_kinds(("NetworkPolicy", "ResourceQuota", *([] if scope else ["Namespace"])), scope)
        return Observed(self.installation, [*seen.objects.values(), *more], seen.resources)

    def has_customer_drifted(self, customer: CustomerSpec, live: Observed) -> bool:
        """Say whether there is something to write for a customer as a whole."""
        desired = render.render_customer(self.installation, customer)
        if not self.installation.scope:
            desired.append(render.make_namespace(self.installation, customer.name, is_new=False))
        elif customer.name != self.installation.scope:
            return False
        keys = {key_of(manifest) for manifest in desired}
        extra = {(kind, customer.name, names.CUSTOMER_OBJECT) for kind in ("NetworkPolicy", "ResourceQuota")} - keys
        return any(differs(manifest, live.objects.get(key_of(manifest))) for manifest in desired) or any(
            key in live.objects for key in extra
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def _list_kinds(self, kinds: Sequence[str], namespace: str, tunnel: str = "") -> list[Manifest]:
        selector = f"{names.INSTALLATION}={self.installation.name}"
        if tunnel:
            selector += f",{names.TUNNEL}={tunnel}"
        return [one for kind in kinds for one in self.api.list_all(kind, namespace, selector)]

    def _list_resources(self, namespace: str) -> dict[str, list[Manifest]]:
        """Return the Tunnel resources by the kinds that the cluster knows: all of them have a status to write."""
        found: dict[str, list[Manifest]] = {}
        for kind in ("Tunnel", *(["InletsTunnel"] if settings.MOORLINE_INLETS_COMPATIBLE else [])):
            try:
                found[kind] = self.api.list_all(kind, namespace)
            except ApiRefused as refused:
                if refused.status != 404:
                    raise
        return found


def _resource_key(tunnel: TunnelSpec) -> Key:
    kind = "InletsTunnel" if tunnel.resource_group.startswith("uplink.inlets.") else "Tunnel"
    return kind, tunnel.customer, tunnel.name


def make_status(tunnel: TunnelSpec, resource: Manifest, conditions: Sequence[Mapping[str, Any]]) -> Manifest:
    """Return the status of a Tunnel resource, of the generation that is in the row."""
    is_mirror = tunnel.source == Source.PORTAL
    generation = resource["metadata"].get("generation", 0) if is_mirror else tunnel.resource_generation
    return {
        "observedGeneration": generation,
        "sessions": tunnel.sessions,
        "conditions": [{**condition, "observedGeneration": generation} for condition in conditions],
    }


@cache
def make_target() -> Target:
    """Return the target that MOORLINE_TARGET names.

    Raises:
        ClusterNotConfigured: there is no way to the cluster.
    """
    if settings.MOORLINE_TARGET == "local":
        return LocalTarget()
    ports = settings.MOORLINE_LISTEN_PORTS or range(1024, 65536)
    return KubernetesTarget(connect(), read_installation(), ports)
