"""The chart's values.yaml, read with its comments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tests.chart.helm import CHART

HEADING = "## "


@dataclass(frozen=True)
class Value:
    """One value that can be set.

    Args:
        path: with dots.
        default: as values.yaml has it.
        comment: what is written above it, on one line.
        heading: of the part of values.yaml that it stands in.
        schema: what values.schema.json says of it.
    """

    path: str
    default: Any
    comment: str
    heading: str
    schema: dict[str, Any]


def read_schema() -> dict[str, Any]:
    """Return values.schema.json."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return schema


def read_values() -> list[Value]:
    """Return every value in the order of values.yaml.

    A mapping that the schema gives keys of its own is a group of values; every other one is a value.

    Raises:
        KeyError: the schema does not have it.
    """
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return list(_walk(root, "", read_schema(), text.splitlines(), yaml.safe_load(text)))


def _walk(
    node: yaml.MappingNode, prefix: str, schema: dict[str, Any], lines: list[str], defaults: Any
) -> Iterator[Value]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        described = schema["properties"][key.value]
        if isinstance(value, yaml.MappingNode) and "properties" in described:
            yield from _walk(value, f"{path}.", described, lines, defaults[key.value])
        else:
            row = key.start_mark.line
            comment = _read_comment(lines, row, key.start_mark.column)
            yield Value(path, defaults[key.value], comment, _read_heading(lines, row), described)


def _read_comment(lines: list[str], row: int, column: int) -> str:
    mark, words = f"{' ' * column}# ", []
    while row > 0 and lines[row - 1].startswith(mark):
        row -= 1
        words.insert(0, lines[row].removeprefix(mark).strip())
    return " ".join(words)


def _read_heading(lines: list[str], row: int) -> str:
    headings = [line for line in lines[:row] if line.startswith(HEADING)]
    return headings[-1].removeprefix(HEADING).strip()
