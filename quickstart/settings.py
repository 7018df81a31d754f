"""What a person can change about ``make up``: three ports, by environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quickstart.errors import StartFailed

CHECKOUT = Path(__file__).resolve().parent.parent
CUSTOMER = "acmeco"
TUNNEL = "prod"
HOSTS = ("identity1.local", "identity2.local")
DATABASE = "finance"
DRAIN_SECONDS = 2  # how long open connections may take when everything stops
# The ports of the example's tunnel; the gateway listens for them on those of Settings.
TCP_PORT, HTTP_PORT = 25060, 8000

# Field of Settings: the variable that changes it, its default and what the port is for.
VARIABLES = {
    "portal_port": ("MOORLINE_PORT", 8000, "portal and gateway"),
    "tcp_port": ("MOORLINE_EXAMPLE_TCP_PORT", 25060, "PostgreSQL through the tunnel"),
    "http_port": ("MOORLINE_EXAMPLE_HTTP_PORT", 8001, "HTTP through the tunnel"),
}


@dataclass(frozen=True)
class Settings:
    """The ports on 127.0.0.1 that people and programs use.

    Args:
        portal_port: portal and gateway.
        tcp_port: where the gateway listens for the tunnel's TCP port, PostgreSQL behind it.
        http_port: where it listens for the tunnel's HTTP port, both HTTP services behind it.
    """

    portal_port: int
    tcp_port: int
    http_port: int

    @property
    def ports(self) -> list[tuple[int, str, str]]:
        """Each port with the variable that changes it and what it is for."""
        return [(getattr(self, name), variable, purpose) for name, (variable, _, purpose) in VARIABLES.items()]


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the ports from the environment.

    Raises:
        StartFailed: a value is no port number, or two of them are the same.
    """
    ports: dict[str, int] = {}
    for name, (variable, default, _) in VARIABLES.items():
        text = environment.get(variable, "") or str(default)
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
            raise StartFailed(f"{variable} must be a port number from 1 to 65535, not {text!r}.")
        port = int(text)
        if port in ports.values():
            raise StartFailed(
                f"{variable} is {port}, which another of the three ports has already: choose another one."
            )
        ports[name] = port
    return Settings(**ports)
