"""Sessions, frames and made-up values that the tests of the protocol share."""

from hypothesis import strategies as st

from tunnels.protocol import ErrorCode, Exposure, Hello, Limits, Role, Session, Stream, Target
from tunnels.protocol import events as ev
from tunnels.protocol.frames import HEADER_SIZE, FrameType, pack_frame, pack_hello

HELLO_PAYLOAD = pack_hello(Hello())

printable_ascii = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
printable = st.text(st.characters(exclude_categories=("C", "Z")), max_size=60)
targets = st.builds(Target, st.integers(1, 65535), st.text(printable_ascii, max_size=255))
codes = st.sampled_from(ErrorCode)
windows = st.integers(1024, 2**31 - 1)
limits = st.builds(Limits, windows, windows, st.integers(1, 1_000_000))
exposures = st.builds(
    Exposure,
    printable,
    printable,
    st.lists(st.integers(1, 65535), max_size=20).map(tuple),
    st.lists(printable, max_size=5).map(tuple),
    st.booleans(),
)
hellos = st.builds(Hello, printable, printable, limits, exposures)


def receive(session: Session, message: bytes, now: float = 0.0) -> list[ev.Event]:
    """Give *session* a message and return its events."""
    return list(session.receive_message(memoryview(message), now))


def sent(session: Session) -> bytes:
    """Return everything that *session* wants to send, as one run of frames."""
    messages = bytearray()
    while (message := session.data_to_send()) is not None:
        messages += message
    return bytes(messages)


def frames_of(data: bytes) -> list[bytes]:
    """Split a run of whole frames."""
    found = []
    while data:
        size = HEADER_SIZE + int.from_bytes(data[1:4], "big")
        assert size <= len(data)
        found.append(data[:size])
        data = data[size:]
    return found


def kinds_of(data: bytes) -> list[FrameType]:
    return [FrameType(frame[0]) for frame in frames_of(data)]


def session_after_hello(role: Role, own: Limits | None = None, peer: Limits | None = None) -> Session:
    """Return a session that has sent and received HELLO, with nothing left to send."""
    session = Session(role, Hello(limits=own or Limits()))
    receive(session, pack_frame(FrameType.HELLO, 0, pack_hello(Hello(limits=peer or Limits()))))
    sent(session)
    return session


def pair_after_hello(gateway: Limits | None = None, client: Limits | None = None) -> tuple[Session, Session]:
    """Return two sessions that have heard each other's HELLO."""
    ours, theirs = (
        Session(Role.GATEWAY, Hello(limits=gateway or Limits())),
        Session(Role.CLIENT, Hello(limits=client or Limits())),
    )
    receive(theirs, sent(ours))
    receive(ours, sent(theirs))
    return ours, theirs


def open_stream(gateway: Session, client: Session) -> tuple[Stream, Stream]:
    """Open a stream and return it as both sides see it."""
    stream = gateway.open_stream(Target(25060), "10.0.0.1:5000")
    opened = receive(client, sent(gateway))[-1]
    assert isinstance(opened, ev.StreamOpened)
    return stream, opened.stream


def failure_of(events: list[ev.Event]) -> ErrorCode:
    """Return the code with which a list of events ends the session."""
    assert events, "nothing happened"
    assert isinstance(events[-1], ev.SessionFailed), events[-1]
    return events[-1].code
