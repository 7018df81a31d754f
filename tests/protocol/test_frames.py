"""Every frame there and back, and every layout that is wrong refused with a ProtocolError and nothing else."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.protocol import ErrorCode, Exposure, Hello, ProtocolError, Target, frames

from .sessions import codes, exposures, hellos, printable, printable_ascii, targets

FOUR_BYTES = st.integers(0, 2**32 - 1)


@given(st.sampled_from(frames.FrameType), st.integers(0, 2**32 - 1), st.binary(max_size=300))
def test_a_frame_is_its_header_and_its_payload(kind, stream_id, payload):
    frame = frames.pack_frame(kind, stream_id, payload)
    assert frame == bytes([kind]) + len(payload).to_bytes(3, "big") + stream_id.to_bytes(4, "big") + payload
    assert frame.startswith(frames.pack_header(kind, len(payload), stream_id))


@given(hellos)
def test_hello_comes_back(hello):
    assert frames.unpack_hello(memoryview(frames.pack_hello(hello))) == hello


@given(exposures)
def test_an_update_comes_back(exposure):
    assert frames.unpack_exposure(memoryview(frames.pack_exposure(exposure))) == exposure


@given(targets, st.text(printable_ascii, max_size=255))
def test_an_open_comes_back(target, source):
    assert frames.unpack_open(memoryview(frames.pack_open(target, source))) == (target, source)


@given(st.integers(0, 2**31 - 1), targets)
def test_a_probe_comes_back(probe_id, target):
    assert frames.unpack_probe(memoryview(frames.pack_probe(probe_id, target))) == (probe_id, target)


@given(FOUR_BYTES, codes, FOUR_BYTES, printable)
def test_a_report_comes_back(probe_id, code, elapsed, reason):
    payload = frames.pack_report(probe_id, code, elapsed, reason)
    assert frames.unpack_report(memoryview(payload)) == (probe_id, code, elapsed, reason)


@given(codes, printable)
def test_a_code_and_its_reason_come_back(code, reason):
    assert frames.unpack_reason(memoryview(frames.pack_reason(code, reason))) == (code, reason)


@given(codes, FOUR_BYTES, printable)
def test_a_goaway_comes_back(code, deadline, reason):
    assert frames.unpack_goaway(memoryview(frames.pack_goaway(code, deadline, reason))) == (code, deadline, reason)


@given(st.integers(1, frames.MAX_WINDOW))
def test_a_credit_comes_back(credit):
    assert frames.unpack_credit(memoryview(frames.pack_credit(credit))) == credit


@given(st.text(st.characters(exclude_categories=()), max_size=700))
def test_any_reason_can_be_sent_and_reads_as_one_printable_line(reason):
    payload = frames.pack_reason(ErrorCode.INTERNAL, reason)
    assert len(payload) <= 2 + frames.MAX_REASON
    _, text = frames.unpack_reason(memoryview(payload))
    assert text.isprintable()
    if reason.isprintable():
        assert reason.startswith(text)


def test_a_long_time_reads_as_the_longest_there_is():
    assert frames.unpack_goaway(memoryview(frames.pack_goaway(ErrorCode.OK, 2**40, "")))[1] == 2**32 - 1
    assert frames.unpack_report(memoryview(frames.pack_report(1, ErrorCode.OK, 2**40, "")))[2] == 2**32 - 1


def test_a_code_of_a_later_version_reads_as_internal():
    assert frames.unpack_reason(memoryview(b"\x7f\xff"))[0] is ErrorCode.INTERNAL


@pytest.mark.parametrize("target", [Target(0), Target(65536), Target(-1), Target(80, "x" * 256), Target(80, "a\nb")])
def test_a_target_that_has_no_place_in_a_frame_is_a_fault_of_the_caller(target):
    with pytest.raises(ValueError, match="no stream can go to"):
        frames.pack_open(target, "")


def document(**changes: object) -> bytes:
    valid = json.loads(frames.pack_hello(Hello()))
    return json.dumps({**valid, **changes}).encode()


def with_limit(name: str, value: object) -> bytes:
    return document(limits={"stream_window": 4096, "session_window": 4096, "max_streams": 1, name: value})


MALFORMED = [
    (frames.unpack_credit, b"", ErrorCode.PROTOCOL),
    (frames.unpack_credit, b"\0\0\1", ErrorCode.PROTOCOL),
    (frames.unpack_credit, b"\0\0\0\1\0", ErrorCode.PROTOCOL),
    (frames.unpack_credit, b"\0\0\0\0", ErrorCode.PROTOCOL),
    (frames.unpack_credit, b"\x80\0\0\0", ErrorCode.PROTOCOL),
    (frames.unpack_reason, b"", ErrorCode.PROTOCOL),
    (frames.unpack_reason, b"\0", ErrorCode.PROTOCOL),
    (frames.unpack_reason, b"\0\1" + b"x" * 513, ErrorCode.PROTOCOL),
    (frames.unpack_goaway, b"\0\1\0\0\0", ErrorCode.PROTOCOL),
    (frames.unpack_goaway, b"\0\1\0\0\0\0" + b"x" * 513, ErrorCode.PROTOCOL),
    (frames.unpack_open, b"", ErrorCode.PROTOCOL),
    (frames.unpack_open, b"\0\x50", ErrorCode.PROTOCOL),
    (frames.unpack_open, b"\0\0\0source", ErrorCode.PROTOCOL),
    (frames.unpack_open, b"\0\x50\5host", ErrorCode.PROTOCOL),
    (frames.unpack_open, b"\0\x50\4h\xf6st", ErrorCode.PROTOCOL),
    (frames.unpack_open, b"\0\x50\4h\nst", ErrorCode.PROTOCOL),
    (frames.unpack_open, b"\0\x50\0sour\0ce", ErrorCode.PROTOCOL),
    (frames.unpack_open, b"\0\x50\0" + b"x" * 256, ErrorCode.PROTOCOL),
    (frames.unpack_probe, b"\0\0\0", ErrorCode.PROTOCOL),
    (frames.unpack_probe, b"\0\0\0\1", ErrorCode.PROTOCOL),
    (frames.unpack_probe, b"\0\0\0\1\0\x50\0behind", ErrorCode.PROTOCOL),
    (frames.unpack_report, b"\0\0\0\1\0\0\0\0\0", ErrorCode.PROTOCOL),
    (frames.unpack_report, b"\0\0\0\1\0\0\0\0\0\0" + b"x" * 513, ErrorCode.PROTOCOL),
    (frames.unpack_hello, b"", ErrorCode.HELLO),
    (frames.unpack_hello, b"\xff\xfe", ErrorCode.HELLO),
    (frames.unpack_hello, frames.pack_hello(Hello()).decode().encode("utf-16"), ErrorCode.HELLO),
    (frames.unpack_hello, b"[" * 60_000, ErrorCode.HELLO),
    (frames.unpack_hello, b"9" * 60_000, ErrorCode.HELLO),
    (frames.unpack_hello, b"[]", ErrorCode.HELLO),
    (frames.unpack_hello, b"{}", ErrorCode.VERSION),
    (frames.unpack_hello, document(versions="v1"), ErrorCode.VERSION),
    (frames.unpack_hello, document(versions=["v2", 3, None]), ErrorCode.VERSION),
    (frames.unpack_hello, document(versions={"v1": 1}), ErrorCode.VERSION),
    (frames.unpack_hello, document(limits=None), ErrorCode.HELLO),
    (frames.unpack_hello, document(limits={}), ErrorCode.HELLO),
    (frames.unpack_hello, with_limit("stream_window", 1023), ErrorCode.HELLO),
    (frames.unpack_hello, with_limit("session_window", 2**31), ErrorCode.HELLO),
    (frames.unpack_hello, with_limit("session_window", 4096.0), ErrorCode.HELLO),
    (frames.unpack_hello, with_limit("max_streams", True), ErrorCode.HELLO),
    (frames.unpack_hello, with_limit("max_streams", 0), ErrorCode.HELLO),
    (frames.unpack_hello, document(agent=7), ErrorCode.HELLO),
    (frames.unpack_hello, document(agent="a\nb"), ErrorCode.HELLO),
    (frames.unpack_hello, document(agent="\ud800"), ErrorCode.HELLO),
    (frames.unpack_hello, document(agent="x" * 201), ErrorCode.HELLO),
    (frames.unpack_hello, document(instance=None), ErrorCode.HELLO),
    (frames.unpack_hello, document(exposes=[]), ErrorCode.HELLO),
    (frames.unpack_hello, document(exposes={"tcp_ports": [0]}), ErrorCode.HELLO),
    (frames.unpack_hello, document(exposes={"tcp_ports": [True]}), ErrorCode.HELLO),
    (frames.unpack_hello, document(exposes={"tcp_ports": "80"}), ErrorCode.HELLO),
    (frames.unpack_hello, document(exposes={"hosts": {"a": 1}}), ErrorCode.HELLO),
    (frames.unpack_hello, document(exposes={"hosts": ["x" * 256]}), ErrorCode.HELLO),
    (frames.unpack_hello, document(exposes={"customer": "x" * 64}), ErrorCode.HELLO),
    (frames.unpack_exposure, b"null", ErrorCode.HELLO),
    (frames.unpack_exposure, b'{"exposes":1}', ErrorCode.HELLO),
]


@pytest.mark.parametrize(("unpack", "payload", "code"), MALFORMED)
def test_a_payload_that_does_not_fit_is_refused_with_its_code(unpack, payload, code):
    with pytest.raises(ProtocolError) as caught:
        unpack(memoryview(payload))
    assert caught.value.code is code
    assert caught.value.reason.isprintable()


def test_members_of_hello_that_are_not_known_are_ignored():
    assert frames.unpack_hello(memoryview(document(resume={"id": 1}))) == Hello(exposure=Exposure())


UNPACK = [
    frames.unpack_credit,
    frames.unpack_exposure,
    frames.unpack_goaway,
    frames.unpack_hello,
    frames.unpack_open,
    frames.unpack_probe,
    frames.unpack_reason,
    frames.unpack_report,
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["versions", "limits", "exposes", "hosts", "tcp_ports", "agent"]), inner)
    ),
    max_leaves=8,
)


@given(st.sampled_from(UNPACK), st.binary(max_size=600) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_payload_is_understood_or_refused(unpack, payload):
    with contextlib.suppress(ProtocolError):
        unpack(memoryview(payload))
