"""The configuration file: YAML, without what YAML lets pass and nobody means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

# A value that YAML takes for a list or for an alias.
_NEEDS_QUOTES: Final = re.compile(r"\s*(?:-\s+|[\w-]+:\s+)+[\[*]")


class ConfigurationInvalid(ValueError):
    """A file that can't be used; the message goes on after the file's name and is one line."""


class _Loader(yaml.SafeLoader):
    """SafeLoader, which refuses a key that is given twice and numbers to the base of 60 (22:33 is 1353 in YAML 1.1)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise ConfigurationInvalid(f"gives {key.value} twice{_place(key.start_mark)}: remove one of the two")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if ":" in node.value:
            raise ConfigurationInvalid(
                f"has {node.value}, which YAML reads as a number{_place(node.start_mark)}: put it in quotes"
            )
        read = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        number: int | float = read(node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def read_configuration(path: Path) -> Any:
    """Return what the YAML file at *path* holds, None where it is empty. Raises ConfigurationInvalid."""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.load(text, _Loader)  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        raise ConfigurationInvalid(f"can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationInvalid("is not a text file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = text.splitlines()[mark.line : mark.line + 1] if mark else []
        hint = "; put quotes around a value that starts with [ or *" if any(map(_NEEDS_QUOTES.match, line)) else ""
        raise ConfigurationInvalid(f"is not YAML{_place(mark)}: {error.problem}{hint}") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ConfigurationInvalid):
            raise
        raise ConfigurationInvalid("is not YAML") from None


def _place(mark: yaml.Mark | None) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
