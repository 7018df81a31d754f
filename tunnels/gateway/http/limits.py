"""What HTTP connections may take: sizes and times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Sizes in bytes, times in seconds.

    ``response_timeout`` bounds the wait for a response head and is long on purpose: long polls. ``body_timeout`` is how
    long an application may be silent in the middle of a request body, ``stall_timeout`` how long it may leave a
    response unread. A response that has begun may take for ever: event streams do.
    """

    head_size: int = 32 * 1024
    headers: int = 100
    head_timeout: float = 30.0
    body_timeout: float = 60.0
    response_timeout: float = 300.0
    stall_timeout: float = 300.0
    idle_timeout: float = 75.0
