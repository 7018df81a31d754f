"""HTTP at the gateway: requests of in-cluster applications, routed by Host to the upstream of that name."""

from .connection import HttpConnection
from .limits import HttpLimits

__all__ = ["HttpConnection", "HttpLimits"]
