"""From runs to medians and ratios, and from these to a table and a document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from .measure import Run, Runs
from .work import Work

MIB = 1024 * 1024
HEADINGS = ("work", "path", "median", "unit", "of direct", "of pair", "CPU seconds", "", "peak RSS, MiB")


@dataclass(frozen=True)
class Result:
    """What one work on one path came to.

    Args:
        median: of the rates of all rounds, in *unit*.
        ratio_to_direct: *median* by that of the path "direct"; None where that was not measured.
        ratio_to_haproxy_pair: the same for "haproxy_pair".
        cpu_seconds: for one *cost_unit*, the median of all rounds, by process.
        peak_rss_bytes: the most of all rounds, by process.
    """

    work: str
    path: str
    median: float
    unit: str
    ratio_to_direct: float | None
    ratio_to_haproxy_pair: float | None
    cpu_seconds: dict[str, float]
    cost_unit: str
    peak_rss_bytes: dict[str, int]


def make_results(runs: Runs, works: Sequence[Work]) -> list[Result]:
    """Take the medians of *runs*, and their ratios within each of *works*."""
    results = []
    for work in works:
        medians = {
            path: median(run.sample.rate for run in made) for (name, path), made in runs.items() if name == work.name
        }
        for path, rate in medians.items():
            made = runs[work.name, path]
            results.append(
                Result(
                    work=work.name,
                    path=path,
                    median=rate,
                    unit=work.unit,
                    ratio_to_direct=_ratio(rate, medians.get("direct")),
                    ratio_to_haproxy_pair=_ratio(rate, medians.get("haproxy_pair")),
                    cpu_seconds={part: median(_costs(made, part)) for part in made[0].cpu_seconds},
                    cost_unit=work.cost_unit,
                    peak_rss_bytes={
                        part: max(run.peak_rss_bytes[part] for run in made) for part in made[0].peak_rss_bytes
                    },
                )
            )
    return results


def format_table(results: Sequence[Result]) -> str:
    """Lay *results* out in aligned columns, with a line between one work and the next."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for number, result in enumerate(results):
        if number and result.work != results[number - 1].work:
            rows.append(("",) * len(HEADINGS))
        rows.append(
            (
                result.work,
                result.path,
                f"{result.median:,.0f}" if result.median >= 100 else f"{result.median:.2f}",
                result.unit,
                _format_ratio(result.ratio_to_direct),
                _format_ratio(result.ratio_to_haproxy_pair),
                _format_parts({part: f"{seconds:.3f}" for part, seconds in result.cpu_seconds.items()}),
                f"/ {result.cost_unit}" if result.cpu_seconds else "",
                _format_parts({part: f"{size / MIB:.0f}" for part, size in result.peak_rss_bytes.items()}),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def format_machine(machine: Mapping[str, object]) -> str:
    """Put what bears on the figures on one line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def make_document(machine: Mapping[str, object], results: Sequence[Result]) -> dict[str, Any]:
    """Return what bench-result.json holds."""
    return {"machine": dict(machine), "results": [asdict(result) for result in results]}


def _costs(runs: Sequence[Run], part: str) -> list[float]:
    return [run.cpu_seconds[part] / run.sample.amount if run.sample.amount else 0.0 for run in runs]


def _ratio(rate: float, other: float | None) -> float | None:
    return rate / other if other else None


def _format_ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _format_parts(parts: Mapping[str, str]) -> str:
    return " + ".join(f"{part} {value}" for part, value in parts.items())
