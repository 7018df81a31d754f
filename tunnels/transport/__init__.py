"""Moving whole binary messages over one WebSocket: an interface and its native (picows) and plain ASGI forms."""

from .base import GATEWAY_HEADER, MAX_MESSAGE, MessageReceiver, MessageTransport

__all__ = ["GATEWAY_HEADER", "MAX_MESSAGE", "MessageReceiver", "MessageTransport"]
