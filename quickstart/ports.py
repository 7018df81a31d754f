"""Loopback ports: which are taken, and which are free."""

import errno
import socket

from quickstart.errors import StartFailed

LOOPBACK = "127.0.0.1"


def check_port(port: int, variable: str, purpose: str) -> None:
    """Refuse a port that another program listens on.

    Args:
        port: the TCP port on 127.0.0.1.
        variable: the environment variable that changes it, named in the message.
        purpose: what the port is for, named in the message.

    Raises:
        StartFailed: the port is taken, or this user may not listen on it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers themselves do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            # bind() alone succeeds beside another socket that has SO_REUSEADDR but does not listen yet.
            probe.listen(1)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
            raise StartFailed(
                f"Port {port} ({purpose}) {why}: stop what holds it, or choose another: make up {variable}={port + 100}"
            ) from None


def find_free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
