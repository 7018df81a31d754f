"""What is live on this gateway: every tunnel that has a session, here or elsewhere, and the sessions here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from .directory import Grant, Holder, Layout
from .listeners import Listener
from .session import GatewaySession
from .tunnel import LiveTunnel, Place


class Registry:
    """The live tunnels by id; this is where the state of the gateway lives, and nowhere else."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._tunnels: dict[str, LiveTunnel] = {}
        self._finishing: set[Listener] = set()  # of tunnels that have gone
        self._draining = False

    def __len__(self) -> int:
        return len(self._tunnels)

    def __iter__(self) -> Iterator[LiveTunnel]:
        return iter(list(self._tunnels.values()))

    def get(self, tunnel_id: str) -> LiveTunnel | None:
        return self._tunnels.get(tunnel_id)

    def find(self, customer: str, tunnel: str) -> LiveTunnel | None:
        """Return the live tunnel of these names."""
        return next((t for t in self if (t.layout.customer, t.layout.tunnel) == (customer, tunnel)), None)

    # -- sessions of this gateway -------------------------------------------------------------------------------------

    def sessions(self) -> list[GatewaySession]:
        """Return every session, also those that have not said HELLO yet."""
        return [session for tunnel in self for session in tunnel.sessions]

    def count_sessions(self, grant: Grant) -> int:
        tunnel = self._tunnels.get(grant.tunnel_id)
        return len(tunnel.sessions) if tunnel is not None else 0

    def add(self, session: GatewaySession) -> None:
        """Hold a place for a session; its listeners open when it does."""
        tunnel = self._tunnels.get(session.grant.tunnel_id)
        if tunnel is None:
            tunnel = self._tunnels[session.grant.tunnel_id] = LiveTunnel(session.grant, self._place)
        tunnel.sessions.append(session)

    def opened(self, session: GatewaySession) -> LiveTunnel:
        """Open the listeners of a session's tunnel."""
        tunnel = self._tunnels[session.grant.tunnel_id]
        tunnel.apply(session.grant)
        tunnel.sessions_changed()
        return tunnel

    def draining(self, session: GatewaySession) -> None:
        """Note that a session takes no more streams."""
        tunnel = self._tunnels.get(session.grant.tunnel_id)
        if tunnel is not None:
            tunnel.sessions_changed()

    def remove(self, session: GatewaySession) -> None:
        """Forget a session; with the last one anywhere its tunnel's listeners close."""
        tunnel = self._tunnels.get(session.grant.tunnel_id)
        if tunnel is not None and session in tunnel.sessions:
            tunnel.sessions.remove(session)
            tunnel.sessions_changed()
            self._settle(tunnel)

    # -- sessions of other gateways -----------------------------------------------------------------------------------

    def set_holders(self, layout: Layout, holders: Sequence[Holder]) -> None:
        """Take who else holds a tunnel, and listen for it as long as somebody does."""
        tunnel = self._tunnels.get(layout.tunnel_id)
        if tunnel is None:
            if not holders or self._draining:
                return
            tunnel = self._tunnels[layout.tunnel_id] = LiveTunnel(layout, self._place)
        tunnel.set_holders(holders)
        if tunnel.wanted:
            tunnel.apply(layout)
        self._settle(tunnel)

    def clear_holders(self, tunnel_ids: Collection[str] | None, besides: Collection[str] = ()) -> None:
        """Forget who else holds these tunnels, or all, *besides* some."""
        for tunnel_id in list(self._tunnels) if tunnel_ids is None else tunnel_ids:
            tunnel = self._tunnels.get(tunnel_id)
            if tunnel is not None and tunnel.holders and tunnel_id not in besides:
                tunnel.set_holders(())
                self._settle(tunnel)

    # -- the end ------------------------------------------------------------------------------------------------------

    def hold_listeners(self) -> None:
        """Keep every listener until :meth:`stop_accepting`, whatever becomes of the sessions."""
        self._draining = True
        for tunnel in self:
            tunnel.held_open = True

    def stop_accepting(self) -> None:
        """Close every listener for good; connections that are open go on."""
        self._draining = True
        for tunnel in self:
            tunnel.stop_accepting()
            self._settle(tunnel)

    @property
    def busy(self) -> bool:
        """Whether a stream is live, or a connection that has bytes to write."""
        listeners = any(listener.connections for listener in self._finishing)
        return listeners or any(tunnel.streams or tunnel.connections for tunnel in self)

    def reset_connections(self) -> None:
        """Reset what connections are left of tunnels that have gone, and those that are passed on."""
        for tunnel in self:
            self._finishing.update(tunnel.finish())
        for listener in self._finishing:
            listener.close()
        self._finishing.clear()

    def _settle(self, tunnel: LiveTunnel) -> None:
        """Close the listeners of a tunnel that nobody has a session of, and forget one that has nothing left.

        A gateway that stops forgets none: connections may wait for one until they have found their way.
        """
        if not tunnel.wanted:
            self._finishing = {listener for listener in self._finishing if listener.connections}
            self._finishing.update(tunnel.finish())
            if not tunnel.sessions and not self._draining:
                del self._tunnels[tunnel.layout.tunnel_id]
