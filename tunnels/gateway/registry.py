"""What is live on this gateway: every tunnel that has a session, and its sessions."""

from __future__ import annotations

from collections.abc import Iterator

from .directory import Grant
from .listeners import Listener
from .session import GatewaySession
from .tunnel import LiveTunnel, Place


class Registry:
    """The live tunnels by id; this is where the state of the gateway lives, and nowhere else."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._tunnels: dict[str, LiveTunnel] = {}
        self._finishing: set[Listener] = set()  # of tunnels that have gone

    def __len__(self) -> int:
        return len(self._tunnels)

    def __iter__(self) -> Iterator[LiveTunnel]:
        return iter(list(self._tunnels.values()))

    def get(self, tunnel_id: str) -> LiveTunnel | None:
        return self._tunnels.get(tunnel_id)

    def find(self, customer: str, tunnel: str) -> LiveTunnel | None:
        """Return the live tunnel of these names."""
        return next((t for t in self if (t.grant.customer, t.grant.tunnel) == (customer, tunnel)), None)

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
        return tunnel

    def remove(self, session: GatewaySession) -> None:
        """Forget a session; with the last one that is open its tunnel's listeners close."""
        tunnel = self._tunnels.get(session.grant.tunnel_id)
        if tunnel is None or session not in tunnel.sessions:
            return
        tunnel.sessions.remove(session)
        if not any(other.opened_at is not None for other in tunnel.sessions):
            self._finishing = {listener for listener in self._finishing if listener.connections}
            self._finishing.update(tunnel.finish())
        if not tunnel.sessions:
            del self._tunnels[session.grant.tunnel_id]

    @property
    def busy(self) -> bool:
        """Whether a stream is live, or a connection that has bytes to write."""
        listeners = any(listener.connections for listener in self._finishing)
        return listeners or any(tunnel.streams or tunnel.connections for tunnel in self)

    def reset_connections(self) -> None:
        """Reset what connections are left of tunnels that have gone."""
        for listener in self._finishing:
            listener.close()
        self._finishing.clear()
