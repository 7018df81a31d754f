"""Spread: the lines of a client on as many gateways as there are, so that one can go and the others carry on.

Something before the gateways chooses which of them a line reaches. A line that reached one where the client has another
already tries again, a few times: with two gateways that fails for one line in thirty.
"""

from __future__ import annotations

from typing import Final

MAX_TRIES: Final = 5


class Spread:
    """Which gateway each line of a client is on."""

    def __init__(self) -> None:
        self._gateways: dict[object, str] = {}
        self._tries: dict[object, int] = {}

    def wants(self, line: object, gateway: str) -> bool:
        """Say whether *line* should stay on the *gateway* that it reached; then the line counts as being there."""
        taken = any(other is not line and name == gateway for other, name in self._gateways.items())
        tries = self._tries.get(line, 0) + 1
        if taken and tries <= MAX_TRIES:
            self._tries[line] = tries
            return False
        self._tries.pop(line, None)
        self._gateways[line] = gateway
        return True

    def leave(self, line: object) -> None:
        """Note that *line* is on no gateway."""
        self._gateways.pop(line, None)
