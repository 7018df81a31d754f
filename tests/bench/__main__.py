"""``python -m tests.bench``: measure, print one table, write bench-result.json.

BENCH_SECONDS is the length of one run. The exit code is 0, 1 where something failed, 2 where something is missing or
an argument is wrong.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quickstart.children import Children
from quickstart.errors import StartFailed
from tests.programs import find_program

from .machine import describe_machine
from .measure import Runs, measure
from .paths import PATHS
from .report import format_machine, format_table, make_document, make_results
from .services import start_services
from .work import WORKS, Work

DEFAULT_SECONDS, MAX_SECONDS = 5, 600
PACKAGES = {"haproxy": "haproxy", "iperf3": "iperf3", "nginx": "nginx-light", "wrk": "wrk"}  # by program


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long: *seconds* a run, *rounds* runs of each work on each path."""

    seconds: int
    rounds: int
    works: list[Work]
    paths: list[str]
    output: Path


def read_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read the command line and BENCH_SECONDS; leaves with a message and exit code 2 where they are wrong."""
    works = {work.name: work for work in WORKS}
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Compare Moorline with other paths.")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each work on each path (default %(default)s)")
    parser.add_argument("--work", action="append", choices=works, help="only this; may be repeated")
    parser.add_argument("--path", action="append", choices=PATHS, help="only this; may be repeated")
    parser.add_argument("--output", type=Path, default=Path("bench-result.json"), help="default %(default)s")
    given = parser.parse_args(arguments)
    text = environment.get("BENCH_SECONDS", "") or str(DEFAULT_SECONDS)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_SECONDS):
        parser.error(f"BENCH_SECONDS is {text!r}: set it to a whole number from 1 to {MAX_SECONDS}, seconds of one run")
    if given.rounds < 1:
        parser.error("--rounds takes a number from 1 up")
    chosen = [works[name] for name in given.work] if given.work else list(WORKS)
    return Options(int(text), given.rounds, chosen, given.path or list(PATHS), given.output)


async def run_bench(options: Options, directory: Path) -> Runs:
    """Start the services and the paths, measure, and stop all of it; raises StartFailed. *directory* takes files."""
    logs = directory / "logs"
    logs.mkdir()
    children = Children(logs)
    try:
        upstreams = await start_services(children, directory)
        paths = {}
        for name in options.paths:
            (directory / name).mkdir()
            paths[name] = await PATHS[name](children, directory / name, upstreams)
        return await measure(
            children,
            logs,
            works=options.works,
            paths=paths,
            seconds=options.seconds,
            rounds=options.rounds,
            say=lambda line: print(line, flush=True),
        )
    finally:
        await children.stop()


def main() -> int:
    """Run the bench as the command line says; return the exit code."""
    options = read_options(sys.argv[1:], os.environ)
    missing = [package for program, package in PACKAGES.items() if find_program(program) is None]
    if missing:
        print(f"The bench needs programs that are not installed: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    machine = describe_machine()
    print(format_machine(machine), flush=True)
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as directory:
        try:
            runs = asyncio.run(run_bench(options, Path(directory)))
        except StartFailed as error:
            print(f"The bench failed: {error}", error.detail, sep="\n", file=sys.stderr)
            return 1
    results = make_results(runs, options.works)
    print(f"\n{format_table(results)}")
    options.output.write_text(json.dumps(make_document(machine, results), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
