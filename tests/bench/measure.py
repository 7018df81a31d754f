"""Do each work on each path in turn, round after round, and keep what every run has shown."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quickstart.children import Children

from .paths import OpenPath
from .usage import read_cpu_seconds, read_peak_rss, reset_peak_rss
from .work import Sample, Work

RUN_GRACE_SECONDS = 15.0  # what a run may take beyond its length before it counts as hung


@dataclass
class Run:
    """One run: its sample, and what each process in between has used for it."""

    sample: Sample
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)


Runs = dict[tuple[str, str], list[Run]]  # by the names of work and path, in the order they were made


async def measure(
    children: Children,
    logs: Path,
    *,
    works: Sequence[Work],
    paths: Mapping[str, OpenPath],
    seconds: int,
    rounds: int,
    say: Callable[[str], None],
) -> Runs:
    """Make every run, the paths of one work one right after the other.

    So whatever else the machine does meanwhile falls on all paths alike, and their ratios hold where figures don't.

    Args:
        children: who runs the programs that measure.
        logs: where *children* keeps what they write.
        seconds: the length of one run.
        rounds: how many runs of each work on each path.
        say: told of each run.

    Raises:
        StartFailed: a run failed or hung.
    """
    runs: Runs = defaultdict(list)
    for number in range(1, rounds + 1):
        for work in works:
            for name, path in paths.items():
                log = f"{work.name}-{name}"
                command = work.command(path.ports[work.service], seconds)
                with _usage(path) as usage:
                    await children.run(log, command, seconds + RUN_GRACE_SECONDS)
                usage.sample = work.parse((logs / f"{log}.log").read_text())
                runs[work.name, name].append(usage)
                say(f"round {number}/{rounds}  {work.name:10} {name:13} {usage.sample.rate:10.4g} {work.unit}")
    return runs


@contextmanager
def _usage(path: OpenPath) -> Iterator[Run]:
    pids = {part: child.process.pid for part, child in path.processes.items()}
    for pid in pids.values():
        reset_peak_rss(pid)
    before = {part: read_cpu_seconds(pid) for part, pid in pids.items()}
    run = Run(Sample(0.0, 0.0))
    yield run
    run.cpu_seconds = {part: read_cpu_seconds(pid) - before[part] for part, pid in pids.items()}
    run.peak_rss_bytes = {part: read_peak_rss(pid) for part, pid in pids.items()}
