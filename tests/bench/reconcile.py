"""``python -m tests.bench.reconcile``: reconcile many tunnels with a real API server, and count the calls to it.

BENCH_TUNNELS is how many. The exit code is 1 where a steady state is written to.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from .machine import describe_machine
from .report import format_machine

DEFAULT_TUNNELS, CUSTOMERS = 1000, 20
READS = frozenset({"get", "list"})
MOST_TUNNELS = 20_000


def read_count() -> int:
    """Read BENCH_TUNNELS; leaves with a message where it is wrong."""
    text = os.environ.get("BENCH_TUNNELS", "") or str(DEFAULT_TUNNELS)
    if not (text.isascii() and text.isdigit() and CUSTOMERS <= int(text) <= MOST_TUNNELS):
        sys.exit(f"BENCH_TUNNELS is {text!r}: set it to a whole number from {CUSTOMERS} to {MOST_TUNNELS}")
    return int(text)


def run_bench(count: int, folder: Path) -> int:
    """Reconcile *count* tunnels in each state; return the exit code. Django is set up when this is called."""
    # Imported here: models are there once Django is set up.
    from django.conf import settings
    from django.core.management import call_command

    from portal.cluster import repair
    from portal.cluster.api import connect
    from portal.cluster.reconcile import reconcile_due
    from portal.cluster.spec import read_installation
    from portal.cluster.target import KubernetesTarget
    from portal.models import Tunnel
    from portal.services import customers, tunnels, work
    from tests.cluster.apiserver import run_api_server
    from tests.cluster.installation import (
        WORKER,
        add_definitions,
        connect_client,
        make_worker_kubeconfig,
        start_gateway,
    )
    from tests.conftest import STAFF

    call_command("migrate", verbosity=0)
    with run_api_server(folder) as cluster:
        add_definitions(cluster)
        settings.MOORLINE_TARGET = "kubernetes"
        settings.MOORLINE_KUBECONFIG = str(make_worker_kubeconfig(cluster))
        settings.MOORLINE_NAMESPACE = cluster.make_namespace("gateways")
        settings.MOORLINE_LISTEN_PORTS = range(2000, 60000)
        settings.MOORLINE_NETWORK_POLICIES = True
        target = KubernetesTarget(connect(), read_installation(), settings.MOORLINE_LISTEN_PORTS)
        rows: list[Tunnel] = []
        for place in range(CUSTOMERS):
            customer = customers.create_customer(name=cluster.make_name("bench"), actor=STAFF)
            for number in range(place, count, CUSTOMERS):
                rows.append(tunnels.create_tunnel(customer=customer, name=f"t{number}", tcp_ports=[25060], actor=STAFF))
        ids = [row.pk for row in rows]

        def measure(what: str, work_to_do: Callable[[], object]) -> Counter[str]:
            mark = cluster.mark()
            since = perf_counter()
            work_to_do()
            took = perf_counter() - since
            calls: Counter[str] = Counter()
            for (verb, _), number in cluster.count_requests(mark, user=WORKER).items():
                calls["read" if verb in READS else "write"] += number
            print(f"| {what} | {took:.2f} s | {calls['read']:,} | {calls['write']:,} |", flush=True)
            return calls

        def reconcile() -> None:
            while tally := reconcile_due(target):
                if tally.problems:
                    sys.exit(f"The bench failed: {tally.problems[0].message}")

        def connect_all() -> None:
            for place, row in enumerate(rows):
                gateway = start_gateway(f"gateway-{place % 2}", f"10.9.0.{place % 2 + 1}")  # and so is heard of
                connect_client(row, gateway)

        print(f"| {count:,} tunnels | time | reads | writes |\n|---|---|---|---|")
        measure("all of them new", reconcile)
        work.touch_tunnels(ids)
        steady = measure("all looked at again, nothing to do", reconcile)
        drift = measure("search for drift", lambda: repair.find_drift(target))
        connect_all()
        measure("a client of each connects at once", reconcile)
        connect_client(rows[0], start_gateway("gateway-1", "10.9.0.2"))
        measure("one more session of one tunnel", reconcile)
        written = steady["write"] + drift["write"]
        if written:
            print(f"The bench failed: a steady state took {written} writes.", file=sys.stderr)
        return 1 if written else 0


def main() -> int:
    """Run the bench; return the exit code."""
    count = read_count()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    with ExitStack() as stack:
        from tests.portal.postgres import run_postgres

        os.environ["TEST_DATABASE_URL"] = stack.enter_context(run_postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moorline-bench-")))
        import django

        django.setup()
        print(format_machine(describe_machine()), flush=True)
        from django.db import connections

        stack.callback(connections.close_all)
        return run_bench(count, folder)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
