"""Whose turn it is to send: deficit round robin over streams that are ready and must wait (SPEC.md section 7).

No bytes are queued here. A stream whose socket could be read, while the session has no credit or the transport takes
no more, stands in the ring; when there is room again each gets a quantum of bytes in turn.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

Key = TypeVar("Key")

QUANTUM: Final = 65536


class Ring(Generic[Key]):
    """The waiting streams in order, each with its deficit: the bytes it may send in its turn.

    ``deficits`` is for looking whether anybody waits.
    """

    __slots__ = ("_quantum", "_turn", "deficits")

    def __init__(self, quantum: int = QUANTUM) -> None:
        self._quantum = quantum
        self.deficits: OrderedDict[Key, int] = OrderedDict()
        self._turn: Key | None = None

    def __len__(self) -> int:
        return len(self.deficits)

    def __contains__(self, key: object) -> bool:
        return key in self.deficits

    def wait(self, key: Key) -> None:
        """Put *key* at the end of the ring; where it stands already it keeps its place."""
        if key not in self.deficits:
            self.deficits[key] = 0

    def leave(self, key: Key) -> None:
        """Take *key* out: it has nothing more to send, or it is gone. What was left of its turn is forfeited."""
        self.deficits.pop(key, None)
        if self._turn == key:
            self._turn = None

    def begin_turn(self) -> Key:
        """Give the first in the ring its quantum and return it; it keeps what an interrupted turn left over."""
        key = next(iter(self.deficits))
        if self.deficits[key] <= 0:
            self.deficits[key] += self._quantum
        self._turn = key
        return key

    def allowance(self, key: Key) -> int:
        """Return how many bytes *key* may send: its deficit in its turn, nothing out of turn."""
        return self.deficits.get(key, 0) if key == self._turn else 0

    def spend(self, key: Key, size: int) -> None:
        """Take *size* bytes off the deficit of *key*, if it is its turn."""
        if key == self._turn and key in self.deficits:
            self.deficits[key] -= size

    def end_turn(self) -> None:
        """End the turn: with its deficit spent the stream goes to the end; interrupted, it stays first."""
        key, self._turn = self._turn, None
        if key is not None and self.deficits.get(key, 1) <= 0:
            self.deficits.move_to_end(key)

    def dissolve(self) -> list[Key]:
        """Empty the ring and return who stood in it, in order: there is room for all."""
        waiting = list(self.deficits)
        self.deficits.clear()
        self._turn = None
        return waiting
