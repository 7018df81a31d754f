"""Give a session bytes that nobody would send, and see that it answers with an event and never with an exception.

A seed is a first byte that chooses the situation and then messages, each with its length in three bytes in front.
``python -m tests.protocol.fuzz SECONDS`` looks for longer than the tests do and keeps what it finds in corpus/.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from pathlib import Path

from tunnels.protocol import Limits, Role, Session, State
from tunnels.protocol import events as ev
from tunnels.protocol.frames import MAX_DATA, MAX_MESSAGE, FrameType

from .sessions import frames_of, receive, sent
from .test_session import STATES, session_in

CORPUS = Path(__file__).parent / "corpus"
SITUATIONS = [(role, state) for role in Role for state in ["no HELLO", *STATES]]
# What may wait to be sent after one message: each frame of at least 8 bytes is answered by at most a REJECT or GOAWAY.
ANSWER = 600


class Broken(Exception):
    """The session did with a seed what it must never do."""


def make_seed(situation: int, *messages: bytes) -> bytes:
    return bytes([situation]) + b"".join(len(message).to_bytes(3, "big") + message for message in messages)


def messages_of(seed: bytes) -> list[bytes]:
    """Return the messages of *seed*; a length that is too high takes what is left."""
    found, rest = [], seed[1:]
    while rest:
        size = min(int.from_bytes(rest[:3], "big"), MAX_MESSAGE)
        found.append(rest[3 : 3 + size])
        rest = rest[3 + size :]
    return found


def replay(seed: bytes) -> list[ev.Event]:
    """Play *seed* to a session and return its events; raises Broken, or whatever the session raised."""
    role, state = SITUATIONS[(seed[0] if seed else 0) % len(SITUATIONS)]
    session = session_in(role, state) if state != "no HELLO" else _fresh(role)
    found: list[ev.Event] = []
    for turn, message in enumerate(messages_of(seed)):
        was_closed = session.state is State.CLOSED
        events = receive(session, message, float(turn))
        _check(session, events, was_closed)
        answer = sent(session)
        frames_of(answer)
        if len(answer) > ANSWER * (len(message) // 8 + 2):
            raise Broken(f"{len(answer)} bytes in answer to {len(message)}")
        found += events
    return found


def _fresh(role: Role) -> Session:
    session = session_in(role, "never opened")
    fresh = Session(role, session.peer) if session.peer is not None else session
    sent(fresh)
    return fresh


def _check(session: Session, events: list[ev.Event], was_closed: bool) -> None:
    failed = [event for event in events if isinstance(event, ev.SessionFailed)]
    if was_closed and events:
        raise Broken(f"a closed session says {events}")
    if failed and (failed != events[-1:] or session.state is not State.CLOSED):
        raise Broken("a fault that does not end the session")
    if session.pending > MAX_MESSAGE * ANSWER:
        raise Broken(f"{session.pending} bytes wait")
    if len(session.streams) > Limits().max_streams:
        raise Broken(f"{len(session.streams)} streams")
    held = sum(stream.receive.unconsumed for stream in session.streams.values())
    if held > Limits().session_window:
        raise Broken(f"{held} bytes held")
    for event in events:
        if isinstance(event, ev.DataReceived) and not 0 < len(event.data) <= MAX_DATA:
            raise Broken(f"{len(event.data)} bytes of DATA")


def mutate(seed: bytes, chance: random.Random) -> bytes:
    """Return *seed* with a few bytes, frames or lengths changed."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data)) if data else 0
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, *FrameType])
        elif kind == 2:
            del data[at : at + chance.randint(1, 8)]
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 4:
            data[at:at] = data[at : at + chance.randint(1, 40)]
        else:
            data += make_seed(0, bytes(data[at : at + 40]))[1:]
    return bytes(data)


def corpus() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))}


def main(seconds: float) -> int:
    """Mutate the corpus for *seconds*; keep a seed that breaks the session and say so."""
    chance = random.Random()
    seeds = list(corpus().values())
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        seed = mutate(chance.choice(seeds), chance)
        count += 1
        try:
            replay(seed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            path = CORPUS / f"found-{hashlib.sha256(seed).hexdigest()[:12]}.bin"
            path.write_bytes(seed)
            print(f"{type(error).__name__}: {error}; kept as {path}")
            return 1
        if len(seeds) < 5000 and chance.random() < 0.01:
            seeds.append(seed)
    print(f"{count} seeds, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
