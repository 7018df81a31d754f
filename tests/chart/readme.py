"""Write chart/README.md from the comments in chart/values.yaml: `make chart-readme`."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from tests.chart.helm import CHART
from tests.chart.values import Value, read_values

HEAD = """\
# The chart of Moorline

    helm install moorline ./chart --namespace moorline --create-namespace --set domain=uplink.example.com

installs all of it: portal, gateways, worker, beat and watch, PostgreSQL and Valkey, the definition of the resource
Tunnel and the rights to serve it. [docs/cluster.md](../docs/cluster.md) has other ways to install it, upgrading and
uninstalling. A value that does not exist or cannot be is refused with its name.

While an upgrade brings the database up to date, and after a rollback, the version before goes on with what exists. From
this version back it can make no customer, tunnel or token until this one is there again.

This page is made of the comments in [values.yaml](values.yaml) by `make chart-readme`.
"""


def write_readme() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for heading, values in groupby(read_values(), key=lambda value: value.heading):
        rows = [_write_row(value) for value in values]
        parts.append("\n".join([f"\n## {heading}\n", "| value | default | meaning |", "|---|---|---|", *rows, ""]))
    return "".join(parts)


def _write_row(value: Value) -> str:
    return f"| `{value.path}` | `{_write_default(value.default)}` | {value.comment} |"


def _write_default(default: Any) -> str:
    return json.dumps(default, ensure_ascii=False).replace("|", "\\|")


def main() -> None:
    """Write the page into the chart."""
    (CHART / "README.md").write_text(write_readme(), encoding="utf-8")


if __name__ == "__main__":
    main()
