"""SPEC.md and the code say the same: types, codes, limits, quoted sentences, and the examples byte for byte."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from tunnels.protocol import ErrorCode, Exposure, Hello, Limits, Target, frames
from tunnels.protocol.frames import FrameType as F
from tunnels.protocol.frames import pack_frame

from .sessions import frames_of

PACKAGE = Path(frames.__file__).parent
SPEC = (PACKAGE.parent / "SPEC.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SPEC.splitlines() if line.startswith("| ")]
SECTIONS = set(re.findall(r"^#{2,3} ([0-9.]+) ", SPEC, re.MULTILINE))
SOURCES = sorted([*PACKAGE.glob("*.py"), *PACKAGE.parent.glob("*.py"), *PACKAGE.parent.glob("transport/*.py")])


def plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def comments_of(path: Path) -> str:
    """Return the comments of a module as running text."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)


def docstrings_of(path: Path) -> str:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)]
    return " ".join(text for node in nodes if (text := ast.get_docstring(node)))


def quoted_sentences() -> list[tuple[str, str]]:
    found = []
    for path in sorted(PACKAGE.glob("*.py")):
        for sentence in re.findall(r'"([^"]+)"', comments_of(path) + " " + docstrings_of(path)):
            if len(sentence.split()) > 2:
                found.append((path.name, sentence))
    return found


def test_the_code_quotes_the_specification():
    assert len(quoted_sentences()) >= 10


@pytest.mark.parametrize(("module", "sentence"), quoted_sentences())
def test_a_sentence_that_the_code_quotes_stands_in_the_specification(module, sentence):
    assert plain(sentence) in plain(SPEC)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_section_that_the_code_cites_is_there(path):
    text = comments_of(path) + " " + docstrings_of(path)
    for name, number in re.findall(r"(RFC \d+ )?sections? (\d+(?:\.\d+)?)", text):
        assert name or number in SECTIONS, f"{path.name} cites section {number}"


@pytest.mark.parametrize("kind", F)
def test_each_frame_type_stands_in_the_table_with_its_number(kind):
    assert [row[:2] for row in ROWS if row[1:2] == [kind.name] and len(row) == 6] == [[str(int(kind)), kind.name]]


@pytest.mark.parametrize("code", ErrorCode)
def test_each_code_stands_in_the_table_with_its_number_and_close_code(code):
    row = [str(int(code)), code.name, str(code.close_code)]
    assert [cells[:3] for cells in ROWS if cells[1:2] == [code.name] and len(cells) == 5] == [row]
    assert ErrorCode.from_close_code(code.close_code) is code


@pytest.mark.parametrize("close_code", [1001, 1006, 1011, 4000, 4401, 4503])
def test_a_close_code_that_carries_no_code_reads_as_lost(close_code):
    assert ErrorCode.from_close_code(close_code) is ErrorCode.LOST


@pytest.mark.parametrize("number", [frames.MAX_DATA, frames.MAX_MESSAGE, frames.MAX_REASON, Limits().max_streams])
def test_each_limit_stands_in_the_table(number):
    section = SPEC[SPEC.index("## 10 Limits") : SPEC.index("## 11")]
    assert f"{number:,}" in section


# -- worked examples --------------------------------------------------------------------------------------------------

_open = frames.pack_open(Target(25060), "10.42.0.7:51834")
_open_host = frames.pack_open(Target(8000, "identity1.local"), "10.42.0.9:40112")
_refused = frames.pack_reason(ErrorCode.UPSTREAM_REFUSED, "connection refused")
_goaway = frames.pack_goaway(ErrorCode.SHUTDOWN, 30_000, "the gateway is stopping")
_exposure = Exposure("acmeco", "prod", (25060,), ("identity1.local",))
_hello = Hello("moorline-gateway/0.1.0", "gw-0", Limits(), _exposure)
_updated = Exposure("acmeco", "prod", (25060, 2222))
ONE = (1).to_bytes(8, "big")

EXAMPLES = {
    "HELLO": pack_frame(F.HELLO, 0, frames.pack_hello(_hello)),
    "OPEN and DATA": pack_frame(F.OPEN, 1, _open) + pack_frame(F.DATA, 1, bytes.fromhex("0000000804d2162f")),
    "OPEN of a host": pack_frame(F.OPEN, 3, _open_host),
    "ACCEPT": pack_frame(F.ACCEPT, 1),
    "REJECT": pack_frame(F.REJECT, 3, _refused),
    "WINDOW": pack_frame(F.WINDOW, 1, frames.pack_credit(131_072)),
    "WINDOW of the session": pack_frame(F.WINDOW, 0, frames.pack_credit(33_554_432)),
    "FIN": pack_frame(F.FIN, 1),
    "RESET": pack_frame(F.RESET, 1, frames.pack_reason(ErrorCode.CANCELLED, "")),
    "PING": pack_frame(F.PING, 0, ONE),
    "PONG": pack_frame(F.PONG, 0, ONE),
    "PROBE": pack_frame(F.PROBE, 0, frames.pack_probe(7, Target(25060))),
    "REPORT": pack_frame(F.REPORT, 0, frames.pack_report(7, ErrorCode.OK, 1250, "")),
    "UPDATE": pack_frame(F.UPDATE, 0, frames.pack_exposure(_updated)),
    "GOAWAY": pack_frame(F.GOAWAY, 0, _goaway),
}
BLOCKS = {name: bytes.fromhex(text) for name, text in re.findall(r"```hex (.+)\n([0-9a-f\s]+)```", SPEC)}
UNPACKED = [
    ("HELLO", frames.unpack_hello, _hello),
    ("OPEN and DATA", frames.unpack_open, (Target(25060), "10.42.0.7:51834")),
    ("OPEN of a host", frames.unpack_open, (Target(8000, "identity1.local"), "10.42.0.9:40112")),
    ("REJECT", frames.unpack_reason, (ErrorCode.UPSTREAM_REFUSED, "connection refused")),
    ("WINDOW", frames.unpack_credit, 131_072),
    ("WINDOW of the session", frames.unpack_credit, 33_554_432),
    ("RESET", frames.unpack_reason, (ErrorCode.CANCELLED, "")),
    ("PROBE", frames.unpack_probe, (7, Target(25060))),
    ("REPORT", frames.unpack_report, (7, ErrorCode.OK, 1250, "")),
    ("UPDATE", frames.unpack_exposure, _updated),
    ("GOAWAY", frames.unpack_goaway, (ErrorCode.SHUTDOWN, 30_000, "the gateway is stopping")),
]


def test_every_frame_type_has_an_example():
    assert BLOCKS.keys() == EXAMPLES.keys()
    assert {frame[0] for message in BLOCKS.values() for frame in frames_of(message)} == set(F)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_code_sends(name):
    assert BLOCKS[name].hex(" ") == EXAMPLES[name].hex(" ")


@pytest.mark.parametrize(("name", "unpack", "value"), UNPACKED)
def test_an_example_reads_as_what_the_text_says(name, unpack, value):
    assert unpack(memoryview(frames_of(BLOCKS[name])[0])[8:]) == value
