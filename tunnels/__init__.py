"""Moorline's data plane and client: the wire protocol, the gateway and the process at the customer."""

__version__ = "0.1.0"
