"""Moving whole binary messages over one WebSocket: an interface and its native (picows) and plain ASGI forms."""

from .base import MAX_MESSAGE, MessageReceiver, MessageTransport

__all__ = ["MAX_MESSAGE", "MessageReceiver", "MessageTransport"]
