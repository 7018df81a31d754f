"""What each frame means in each state (SPEC.md section 5), and what a hostile peer gets."""

import pytest

from tunnels.protocol import (
    ErrorCode,
    Exposure,
    Hello,
    Limits,
    ProtocolError,
    Role,
    Session,
    State,
    StreamRefused,
    Target,
    frames,
)
from tunnels.protocol import events as ev
from tunnels.protocol.frames import FrameType as F
from tunnels.protocol.frames import pack_frame
from tunnels.protocol.session import MAX_GOAWAYS, MAX_PER_SECOND

from .sessions import (
    HELLO_PAYLOAD,
    failure_of,
    frames_of,
    kinds_of,
    open_stream,
    pair_after_hello,
    receive,
    sent,
    session_after_hello,
)

PROTOCOL = ErrorCode.PROTOCOL
PAYLOADS = {
    F.HELLO: HELLO_PAYLOAD,
    F.OPEN: frames.pack_open(Target(80), "10.0.0.1:5000"),
    F.ACCEPT: b"",
    F.REJECT: frames.pack_reason(ErrorCode.UPSTREAM_REFUSED, "refused"),
    F.DATA: b"data",
    F.WINDOW: frames.pack_credit(1),
    F.FIN: b"",
    F.RESET: frames.pack_reason(ErrorCode.CANCELLED, "gone"),
    F.PING: b"12345678",
    F.PONG: b"12345678",
    F.PROBE: frames.pack_probe(1, Target(80)),
    F.REPORT: frames.pack_report(1, ErrorCode.OK, 5, ""),
    F.UPDATE: frames.pack_exposure(Exposure()),
    F.GOAWAY: frames.pack_goaway(ErrorCode.SHUTDOWN, 1000, ""),
}
STREAM_FRAMES = [F.OPEN, F.ACCEPT, F.REJECT, F.DATA, F.WINDOW, F.FIN, F.RESET]
SESSION_FRAMES = [F.HELLO, F.PING, F.PONG, F.PROBE, F.REPORT, F.UPDATE, F.GOAWAY]

# What follows a frame: an event, a code that ends the session, or None where it is ignored.
IGNORED = None
Outcome = type[ev.Event] | ErrorCode | None

# -- frames of a stream, by the state of the stream -------------------------------------------------------------------

STATES = ["never opened", "open", "accepted", "peer's FIN", "our FIN", "gone"]
GATEWAY: dict[F, list[Outcome]] = {
    F.OPEN: [PROTOCOL] * 6,
    F.ACCEPT: [PROTOCOL, ev.StreamAccepted, PROTOCOL, ev.StreamAccepted, ev.StreamAccepted, IGNORED],
    F.REJECT: [PROTOCOL, ev.StreamRejected, PROTOCOL, ev.StreamRejected, ev.StreamRejected, IGNORED],
    F.DATA: [PROTOCOL, ev.DataReceived, ev.DataReceived, PROTOCOL, ev.DataReceived, IGNORED],
    F.WINDOW: [PROTOCOL, ev.CreditReceived, ev.CreditReceived, ev.CreditReceived, ev.CreditReceived, IGNORED],
    F.FIN: [PROTOCOL, ev.FinReceived, ev.FinReceived, PROTOCOL, ev.FinReceived, IGNORED],
    F.RESET: [PROTOCOL, ev.StreamReset, ev.StreamReset, ev.StreamReset, ev.StreamReset, IGNORED],
}
CLIENT: dict[F, list[Outcome]] = {
    **GATEWAY,
    F.OPEN: [ev.StreamOpened] + [PROTOCOL] * 5,
    F.ACCEPT: [PROTOCOL] * 5 + [IGNORED],
    F.REJECT: [PROTOCOL] * 5 + [IGNORED],
}
STREAM_TABLE = [
    (role, state, kind, table[kind][column])
    for role, table in ((Role.GATEWAY, GATEWAY), (Role.CLIENT, CLIENT))
    for kind in STREAM_FRAMES
    for column, state in enumerate(STATES)
]


def session_in(role: Role, state: str) -> Session:
    """Return a session of *role* whose stream 1 is in *state*."""
    gateway, client = pair_after_hello()
    session = gateway if role is Role.GATEWAY else client
    if state == "never opened":
        return session
    pair = open_stream(gateway, client)
    stream = pair[0] if role is Role.GATEWAY else pair[1]
    if state == "accepted":
        client.accept_stream(pair[1])
        receive(gateway, sent(client))
    elif state == "peer's FIN":
        receive(session, pack_frame(F.FIN, 1))
    elif state == "our FIN":
        session.send_fin(stream)
    elif state == "gone":
        receive(session, pack_frame(F.RESET, 1, PAYLOADS[F.RESET]))
    sent(session)
    return session


def check_outcome(session: Session, events: list[ev.Event], outcome: Outcome) -> None:
    if outcome is IGNORED:
        assert events == []
        assert session.state is State.OPEN
    elif isinstance(outcome, ErrorCode):
        assert failure_of(events) is outcome
        assert session.state is State.CLOSED
        goaway = frames_of(sent(session))[-1]
        assert frames.unpack_goaway(memoryview(goaway)[8:])[:2] == (outcome, 0)
    else:
        assert [type(event) for event in events] == [outcome]
        assert session.state is State.OPEN


@pytest.mark.parametrize(("role", "state", "kind", "outcome"), STREAM_TABLE)
def test_a_frame_of_a_stream_means_what_its_state_says(role, state, kind, outcome):
    session = session_in(role, state)
    check_outcome(session, receive(session, pack_frame(kind, 1, PAYLOADS[kind])), outcome)


# -- frames of the session --------------------------------------------------------------------------------------------

SESSION_TABLE = [
    (F.HELLO, PROTOCOL, PROTOCOL),
    (F.PING, IGNORED, IGNORED),
    (F.PONG, PROTOCOL, PROTOCOL),
    (F.PROBE, PROTOCOL, ev.ProbeReceived),
    (F.REPORT, ev.ReportReceived, PROTOCOL),
    (F.UPDATE, PROTOCOL, ev.ExposureChanged),
    (F.GOAWAY, ev.GoawayReceived, ev.GoawayReceived),
    (F.WINDOW, ev.CreditReceived, ev.CreditReceived),
    (F.OPEN, PROTOCOL, PROTOCOL),
    (F.ACCEPT, PROTOCOL, PROTOCOL),
    (F.REJECT, PROTOCOL, PROTOCOL),
    (F.DATA, PROTOCOL, PROTOCOL),
    (F.FIN, PROTOCOL, PROTOCOL),
    (F.RESET, PROTOCOL, PROTOCOL),
]
ROLES = pytest.mark.parametrize("role", Role)


@ROLES
@pytest.mark.parametrize(("kind", "at_gateway", "at_client"), SESSION_TABLE)
def test_a_frame_of_the_session_means_what_the_role_says(role, kind, at_gateway, at_client):
    session = session_after_hello(role)
    outcome = at_gateway if role is Role.GATEWAY else at_client
    check_outcome(session, receive(session, pack_frame(kind, 0, PAYLOADS[kind])), outcome)


@ROLES
@pytest.mark.parametrize("kind", SESSION_FRAMES)
def test_a_frame_of_the_session_on_a_stream_ends_it(role, kind):
    session = session_in(role, "open")
    check_outcome(session, receive(session, pack_frame(kind, 1, PAYLOADS[kind])), PROTOCOL)


@ROLES
@pytest.mark.parametrize("kind", F)
def test_nothing_comes_before_hello(role, kind):
    session = Session(role, Hello())
    outcome = ev.SessionOpened if kind is F.HELLO else ErrorCode.HELLO
    check_outcome(session, receive(session, pack_frame(kind, 0, PAYLOADS[kind])), outcome)


@ROLES
def test_hello_is_a_frame_of_the_session(role):
    session = Session(role, Hello())
    check_outcome(session, receive(session, pack_frame(F.HELLO, 1, HELLO_PAYLOAD)), ErrorCode.HELLO)


@ROLES
@pytest.mark.parametrize("kind", F)
def test_a_closed_session_takes_no_notice(role, kind):
    session = session_in(role, "open")
    session.close()
    assert receive(session, pack_frame(kind, 1, PAYLOADS[kind]) + pack_frame(kind, 0, PAYLOADS[kind])) == []
    assert sent(session) == b""


@ROLES
@pytest.mark.parametrize("kind", [14, 15, 16, 127, 255])
@pytest.mark.parametrize("stream_id", [0, 1])
def test_an_unknown_type_ends_the_session(role, kind, stream_id):
    session = session_in(role, "open")
    check_outcome(session, receive(session, pack_frame(kind, stream_id)), PROTOCOL)


MISSHAPEN = [
    (Role.GATEWAY, pack_frame(F.ACCEPT, 1, b"x"), PROTOCOL),
    (Role.CLIENT, pack_frame(F.FIN, 1, b"x"), PROTOCOL),
    (Role.CLIENT, pack_frame(F.DATA, 1), PROTOCOL),
    (Role.CLIENT, pack_frame(F.WINDOW, 1, b"\0\0\0\0"), PROTOCOL),
    (Role.CLIENT, pack_frame(F.WINDOW, 0, b"\0"), PROTOCOL),
    (Role.CLIENT, pack_frame(F.WINDOW, 0, frames.pack_credit(2**31 - 1)), ErrorCode.WINDOW_OVERRUN),
    (Role.CLIENT, pack_frame(F.WINDOW, 1, frames.pack_credit(2**31 - 1)), ErrorCode.WINDOW_OVERRUN),
    (Role.CLIENT, pack_frame(F.RESET, 1, b"\0"), PROTOCOL),
    (Role.GATEWAY, pack_frame(F.REJECT, 1, b""), PROTOCOL),
    (Role.CLIENT, pack_frame(F.PING, 0, b"1234567"), PROTOCOL),
    (Role.CLIENT, pack_frame(F.PONG, 0, b"123456789"), PROTOCOL),
    (Role.CLIENT, pack_frame(F.GOAWAY, 0, b""), PROTOCOL),
    (Role.CLIENT, pack_frame(F.OPEN, 3, b"\0\0\0"), PROTOCOL),
    (Role.CLIENT, pack_frame(F.OPEN, 2, PAYLOADS[F.OPEN]), PROTOCOL),
    (Role.CLIENT, pack_frame(F.OPEN, 2**31 + 1, PAYLOADS[F.OPEN]), PROTOCOL),
    (Role.CLIENT, pack_frame(F.PROBE, 0, b"\0\0\0\1"), PROTOCOL),
    (Role.GATEWAY, pack_frame(F.REPORT, 0, b""), PROTOCOL),
    (Role.CLIENT, pack_frame(F.UPDATE, 0, b"{"), ErrorCode.HELLO),
    (Role.CLIENT, pack_frame(F.DATA, 2, b"x"), PROTOCOL),
    (Role.CLIENT, pack_frame(F.RESET, 3, PAYLOADS[F.RESET]), PROTOCOL),
    (Role.CLIENT, b"\4", PROTOCOL),
    (Role.CLIENT, pack_frame(F.DATA, 1, b"12345")[:-1], PROTOCOL),
    (Role.CLIENT, frames.pack_header(F.DATA, 65537, 1), ErrorCode.FRAME_TOO_LARGE),
    (Role.GATEWAY, frames.pack_header(F.PING, 2**24 - 1, 0), ErrorCode.FRAME_TOO_LARGE),
]


@pytest.mark.parametrize(("role", "message", "code"), MISSHAPEN)
def test_a_frame_that_does_not_fit_ends_the_session_with_its_code(role, message, code):
    session = session_in(role, "open")
    check_outcome(session, receive(session, message), code)


# -- what the tables do not say ---------------------------------------------------------------------------------------


def test_frames_before_a_fault_count_and_those_behind_it_do_not():
    session = session_in(Role.CLIENT, "open")
    good, bad = pack_frame(F.DATA, 1, b"good"), pack_frame(99, 0)
    events = receive(session, good + bad + good)
    assert [type(event) for event in events] == [ev.DataReceived, ev.SessionFailed]


def test_nothing_leaves_after_the_goaway_of_a_fault():
    session = session_in(Role.CLIENT, "open")
    stream = session.streams[1]
    receive(session, pack_frame(99, 0))
    session.accept_stream(stream)
    session.send_fin(stream)
    session.send_ping(1.0)
    session.reset_stream(stream, ErrorCode.LOST)
    assert kinds_of(sent(session)) == [F.GOAWAY]


def test_a_handler_that_closes_the_session_is_told_nothing_more():
    session = session_in(Role.CLIENT, "open")
    events = session.receive_message(memoryview(pack_frame(F.DATA, 1, b"x") * 3), 0.0)
    assert isinstance(next(events), ev.DataReceived)
    session.close()
    assert list(events) == []


def test_a_fin_sent_by_a_handler_does_not_overtake_what_the_message_still_holds():
    """The peer's FIN in the same message counts when its turn comes, not before."""
    session = session_in(Role.CLIENT, "open")
    stream = session.streams[1]
    message = pack_frame(F.WINDOW, 1, PAYLOADS[F.WINDOW]) + pack_frame(F.DATA, 1, b"x") + pack_frame(F.FIN, 1)
    states = []
    for event in session.receive_message(memoryview(message), 0.0):
        if isinstance(event, ev.CreditReceived):
            session.send_fin(stream)
        states.append((type(event), stream.closed))
    assert states == [(ev.CreditReceived, False), (ev.DataReceived, False), (ev.FinReceived, True)]


def test_a_reset_behind_its_open_is_seen_after_it():
    session = session_after_hello(Role.CLIENT)
    message = pack_frame(F.OPEN, 1, PAYLOADS[F.OPEN]) + pack_frame(F.RESET, 1, PAYLOADS[F.RESET])
    states = [(type(event), event.stream.closed) for event in session.receive_message(memoryview(message), 0.0)]
    assert states == [(ev.StreamOpened, False), (ev.StreamReset, True)]


def test_streams_are_opened_by_an_open_gateway_only():
    with pytest.raises(ValueError, match="only the gateway"):
        session_after_hello(Role.CLIENT).open_stream(Target(80), "")
    session = Session(Role.GATEWAY, Hello())
    with pytest.raises(StreamRefused) as caught:
        session.open_stream(Target(80), "")
    assert caught.value.code is ErrorCode.LOST


def test_a_full_session_refuses_a_stream_and_takes_one_when_another_has_gone():
    gateway, client = pair_after_hello(client=Limits(max_streams=2))
    first, _ = open_stream(gateway, client)
    open_stream(gateway, client)
    with pytest.raises(StreamRefused) as caught:
        gateway.open_stream(Target(80), "")
    assert caught.value.code is ErrorCode.LIMIT
    gateway.reset_stream(first, ErrorCode.CANCELLED)
    open_stream(gateway, client)


def test_a_target_that_can_not_be_sent_leaves_no_stream():
    gateway, client = pair_after_hello()
    with pytest.raises(ValueError, match="no stream"):
        gateway.open_stream(Target(0), "")
    assert gateway.streams == {}
    assert open_stream(gateway, client)[0].stream_id == 1


def test_a_draining_session_opens_nothing_and_rejects_what_crosses():
    gateway, client = pair_after_hello()
    gateway.open_stream(Target(80), "")
    client.send_goaway(ErrorCode.SHUTDOWN, 30.0, "stopping")
    assert receive(client, sent(gateway)) == []
    events = receive(gateway, sent(client))
    assert [type(event) for event in events] == [ev.GoawayReceived, ev.StreamRejected]
    assert (events[0].deadline, events[1].code) == (30.0, ErrorCode.SHUTDOWN)
    with pytest.raises(StreamRefused) as caught:
        gateway.open_stream(Target(80), "")
    assert caught.value.code is ErrorCode.SHUTDOWN


def test_a_client_that_is_full_rejects():
    session = session_after_hello(Role.CLIENT, own=Limits(max_streams=1))
    receive(session, pack_frame(F.OPEN, 1, PAYLOADS[F.OPEN]))
    assert receive(session, pack_frame(F.OPEN, 3, PAYLOADS[F.OPEN])) == []
    (reject,) = frames_of(sent(session))
    assert reject[0] == F.REJECT
    assert frames.unpack_reason(memoryview(reject)[8:])[0] is ErrorCode.LIMIT


def test_the_round_trip_is_the_least_of_the_latest_samples():
    gateway, client = pair_after_hello()
    for turn, delay in enumerate([0.5, 0.1, 0.3]):
        gateway.send_ping(float(turn))
        receive(client, sent(gateway))
        (pong,) = receive(gateway, sent(client), turn + delay)
        assert isinstance(pong, ev.PongReceived)
        assert pong.round_trip == pytest.approx(delay)
    assert gateway.round_trip == pytest.approx(0.1)


def test_at_most_four_pings_are_under_way():
    session = session_after_hello(Role.GATEWAY)
    for _ in range(10):
        session.send_ping(0.0)
    assert kinds_of(sent(session)) == [F.PING] * 4


def test_a_report_answers_the_probe_with_its_id():
    gateway, client = pair_after_hello()
    probe_id = gateway.send_probe(Target(25060))
    (probe,) = receive(client, sent(gateway))
    assert probe == ev.ProbeReceived(probe_id, Target(25060))
    client.send_report(probe_id, ErrorCode.UPSTREAM_REFUSED, 0.25, "refused")
    assert receive(gateway, sent(client)) == [ev.ReportReceived(probe_id, ErrorCode.UPSTREAM_REFUSED, 0.25, "refused")]


def test_an_update_tells_what_is_exposed():
    gateway, client = pair_after_hello()
    exposure = Exposure("acmeco", "prod", (22,), ("a.local",))
    gateway.send_update(exposure)
    assert receive(client, sent(gateway)) == [ev.ExposureChanged(exposure)]


def test_what_waits_to_be_sent_leaves_in_messages_within_the_limit():
    gateway, client = pair_after_hello()
    streams = [open_stream(gateway, client)[1] for _ in range(1000)]
    for stream in streams:
        client.reject_stream(stream, ErrorCode.INTERNAL, "x" * 512)
    waiting = client.pending
    messages = []
    while (message := client.data_to_send()) is not None:
        messages.append(bytes(message))
    assert sum(map(len, messages)) == waiting > frames.MAX_MESSAGE
    assert max(map(len, messages)) <= frames.MAX_MESSAGE
    assert client.pending == 0
    rejected = [event for message in messages for event in receive(gateway, message)]
    assert [event.stream.stream_id for event in rejected] == [stream.stream_id for stream in streams]


def test_each_message_has_its_headroom():
    session = Session(Role.CLIENT, Hello(), headroom=14)
    pending = session.pending
    message = session.data_to_send()
    assert message is not None
    assert (bytes(message[:14]), len(message)) == (bytes(14), 14 + pending)
    assert session.data_to_send() is None


# -- a hostile peer ---------------------------------------------------------------------------------------------------


def test_ten_thousand_opens_of_a_client_end_its_session_at_the_first():
    session = session_after_hello(Role.GATEWAY)
    opens = b"".join(pack_frame(F.OPEN, 2 * n + 1, PAYLOADS[F.OPEN]) for n in range(10_000))
    check_outcome(session, receive(session, opens), PROTOCOL)
    assert session.streams == {}
    assert session.pending == 0


def test_a_gateway_can_not_open_more_than_the_client_holds():
    session = session_after_hello(Role.CLIENT, own=Limits(max_streams=100))
    for n in range(10_000):
        receive(session, pack_frame(F.OPEN, 2 * n + 1, PAYLOADS[F.OPEN]))
        assert len(session.streams) <= 100
    assert kinds_of(sent(session)) == [F.REJECT] * 9_900


def test_more_data_than_the_stream_has_credit_for_is_an_overrun():
    gateway, client = pair_after_hello(client=Limits(stream_window=1024))
    open_stream(gateway, client)
    assert receive(client, pack_frame(F.DATA, 1, bytes(1024)))
    check_outcome(client, receive(client, pack_frame(F.DATA, 1, b"x")), ErrorCode.WINDOW_OVERRUN)


def test_more_data_than_the_session_has_credit_for_is_an_overrun():
    gateway, client = pair_after_hello(client=Limits(stream_window=4096, session_window=1024))
    open_stream(gateway, client)
    check_outcome(client, receive(client, pack_frame(F.DATA, 1, bytes(1025))), ErrorCode.WINDOW_OVERRUN)


def test_data_for_a_stream_that_is_gone_is_no_way_round_the_session_window():
    session = session_in(Role.CLIENT, "gone")
    for _ in range(5000):
        assert receive(session, pack_frame(F.DATA, 1, bytes(65536))) == []
    assert set(kinds_of(sent(session))) == {F.WINDOW}


def test_twenty_pings_within_a_second_are_answered_and_one_more_ends_the_session():
    session = session_after_hello(Role.GATEWAY)
    ping = pack_frame(F.PING, 0, b"whatever")
    assert receive(session, ping * 20, 10.0) == []
    assert sent(session) == pack_frame(F.PONG, 0, b"whatever") * 20
    assert receive(session, ping * 20, 11.0) == []
    sent(session)
    check_outcome(session, receive(session, ping, 11.99), ErrorCode.LIMIT)


def test_a_pong_answers_a_ping_once():
    gateway, client = pair_after_hello()
    gateway.send_ping(0.0)
    receive(client, sent(gateway))
    pong = sent(client)
    assert receive(gateway, pong)
    check_outcome(gateway, receive(gateway, pong), PROTOCOL)


def test_a_reason_of_a_stranger_stays_on_one_line():
    session = session_in(Role.GATEWAY, "open")
    reset = pack_frame(F.RESET, 1, b"\0\7evil\nFAKE LOG LINE\x1b[31m\xff")
    (event,) = receive(session, reset)
    assert isinstance(event, ev.StreamReset)
    assert event.reason == "evil?FAKE LOG LINE?[31m\N{REPLACEMENT CHARACTER}"


def test_garbage_ends_the_session():
    session = session_after_hello(Role.GATEWAY)
    assert failure_of(receive(session, bytes(range(256)) * 4))
    assert session.state is State.CLOSED


@pytest.mark.parametrize(
    ("frame", "allowed"),
    [
        (pack_frame(F.GOAWAY, 0, frames.pack_goaway(ErrorCode.SHUTDOWN, 1000, "")), MAX_GOAWAYS),
        (pack_frame(F.UPDATE, 0, frames.pack_exposure(Exposure())), MAX_PER_SECOND),
    ],
    ids=["GOAWAY", "UPDATE"],
)
def test_a_flood_of_what_everybody_is_told_ends_the_session(frame, allowed):
    client = session_after_hello(Role.CLIENT)
    told = list(client.receive_message(memoryview(frame * allowed), 1.0))
    assert len(told) == allowed
    (failed,) = client.receive_message(memoryview(frame), 1.5)
    assert isinstance(failed, ev.SessionFailed)
    assert failed.code is ErrorCode.LIMIT


def test_more_ports_than_are_told_is_a_fault():
    exposure = Exposure(tcp_ports=tuple(range(1, 202)))
    with pytest.raises(ProtocolError, match="more than 200 ports or host names"):
        frames.unpack_exposure(memoryview(frames.pack_exposure(exposure)))
