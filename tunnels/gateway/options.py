"""What an installation sets for a gateway."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..endpoint import Timing
from .addresses import Network
from .http import HttpLimits


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What an installation sets.

    The gateway's *name*, where listeners bind, whose X-Forwarded-For is believed; the *customers* it serves, all where
    there are none. With an *address* and a *hop_secret* it works together with the other gateways that have the secret:
    they reach it there, at *hop_port*. *linger* is how many seconds a gateway that stops still takes connections for
    them.
    """

    name: str
    listen_host: str = "127.0.0.1"
    trusted_proxies: tuple[Network, ...] = ()
    timing: Timing = field(default_factory=Timing)
    http_limits: HttpLimits = field(default_factory=HttpLimits)
    customers: tuple[str, ...] = ()
    address: str = ""
    hop_port: int = 8001
    hop_secret: str = ""
    linger: float = 0.0

    @property
    def has_peers(self) -> bool:
        """Whether there may be other gateways to work together with."""
        return bool(self.address and self.hop_secret)


class StartFailed(Exception):
    """The gateway can't start; the message says what to do."""
