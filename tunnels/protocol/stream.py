"""The state of one stream (SPEC.md section 5.2)."""

from __future__ import annotations

from .frames import Target
from .windows import ReceiveWindow, SendWindow


class Stream:
    """The state of one stream (section 5.2)."""

    __slots__ = (
        "accepted",
        "closed",
        "discarded",
        "fin_received",
        "fin_sent",
        "receive",
        "send",
        "source",
        "stream_id",
        "target",
    )

    def __init__(self, stream_id: int, target: Target, source: str, send: SendWindow, receive: ReceiveWindow) -> None:
        self.stream_id = stream_id
        self.target = target
        self.source = source
        self.send = send
        self.receive = receive
        self.accepted = False
        self.fin_sent = False
        self.fin_received = False
        self.closed = False  # gone from the session; with FIN both ways its last bytes may still wait for their socket
        self.discarded = False  # and what it held is given up

    def __repr__(self) -> str:
        return f"<Stream {self.stream_id} to {self.target} from {self.source}>"
