"""Processes: started, watched and stopped together."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quickstart import children as supervision
from quickstart.children import Command
from quickstart.errors import StartFailed
from tests.quickstart.conftest import is_running, wait_until

PRINT_PID = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()) + '\\n')\n"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PRINT_PID + "time.sleep(600)"
PATIENT = "import time\n" + PRINT_PID + "time.sleep(600)"
PARENT = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]]).wait()"


def python(script, *arguments, **options):
    return Command([sys.executable, "-c", script, *arguments], **options)


async def read_pid(path: Path) -> int:
    await wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


async def test_stop_leaves_no_process(children, tmp_path):
    await children.start("patient", python(PATIENT, str(tmp_path / "pid")))
    pid = await read_pid(tmp_path / "pid")
    await children.stop()
    assert not is_running(pid)


async def test_a_child_that_ignores_the_signal_is_killed(children, tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "STOP_SECONDS", 0.1)
    await children.start("stubborn", python(STUBBORN, str(tmp_path / "pid")))
    pid = await read_pid(tmp_path / "pid")
    await children.stop()
    assert not is_running(pid)


async def test_what_a_child_left_behind_is_killed_with_it(children, tmp_path):
    await children.start("parent", python(PARENT, str(tmp_path / "pid"), STUBBORN))
    pid = await read_pid(tmp_path / "pid")
    await children.stop()
    await wait_until(lambda: not is_running(pid))


async def test_hurry_does_not_wait_for_a_child_to_stop(children, tmp_path):
    await children.start("stubborn", python(STUBBORN, str(tmp_path / "pid")))
    pid = await read_pid(tmp_path / "pid")
    stopping = asyncio.create_task(children.stop())
    children.hurry()
    async with asyncio.timeout(supervision.STOP_SECONDS / 2):
        await stopping
    assert not is_running(pid)


async def test_a_child_that_ends_by_itself_is_named_with_the_end_of_its_log(children):
    await children.start("patient", python("import time; time.sleep(600)"))
    await children.start("short", python("import sys; print('out of paper'); sys.exit(3)"))
    with pytest.raises(
        StartFailed, match=r"^short stopped by itself \(exit code 3\); its log is .*short\.log$"
    ) as failure:
        await children.wait_for_exit()
    assert failure.value.detail == "out of paper"


async def test_the_log_of_the_last_time_is_kept_and_one_of_this_time_is_not_mistaken_for_it(state):
    for run in ("first", "second"):
        children = supervision.Children(state.logs)
        for attempt in ("once", "again"):
            assert await children.attempt("part", python(f"print('{run}, {attempt}')")) == 0
    assert (state.logs / "part.log").read_text() == "second, again\n"
    assert (state.logs / "part.log.1").read_text() == "first, again\n"


async def test_waiting_for_one_child_ends_when_another_dies(children):
    await children.start("short", python("pass"))

    async def never():
        return False

    with pytest.raises(StartFailed, match="short stopped by itself"):
        await children.wait_ready("other", never, 20)


async def test_waiting_has_an_end(children):
    await children.start("patient", python("import time; time.sleep(600)"))

    async def hangs():
        await asyncio.sleep(600)
        return True

    with pytest.raises(StartFailed, match="patient was not ready within 0 s"):
        await children.wait_ready("patient", hangs, 0.2)


async def test_a_command_that_fails_is_named_with_the_end_of_its_output(children):
    with pytest.raises(StartFailed, match=r"migrate failed \(exit code 2\)") as failure:
        await children.run("migrate", python("import sys; print('no such table', file=sys.stderr); sys.exit(2)"), 20)
    assert failure.value.detail == "no such table"


async def test_a_command_that_takes_too_long_is_stopped(children, tmp_path):
    with pytest.raises(StartFailed, match="slow was not done within 1 s"):
        await children.run("slow", python(PATIENT, str(tmp_path / "pid")), 1.4)
    assert not (tmp_path / "pid").exists() or not is_running(int((tmp_path / "pid").read_text()))


async def test_a_program_that_is_not_there_is_named(children):
    with pytest.raises(StartFailed, match="gone can't be started: .*no-such-program"):
        await children.start("gone", Command(["/no-such-program"]))


async def test_a_child_has_the_variables_it_was_given_and_none_of_ours(children, state, monkeypatch):
    monkeypatch.setenv("MOORLINE_DATABASE_URL", "postgres://elsewhere/")
    script = "import os; print(sorted(n for n in os.environ if n.startswith('MOORLINE')), os.environ['PATH'] != '')"
    await children.run("variables", python(script, environment={"MOORLINE_PORT": "1"}), 20)
    assert (state.logs / "variables.log").read_text() == "['MOORLINE_PORT'] True\n"


async def test_what_is_secret_goes_through_standard_input(children, state):
    await children.run("reader", python("import sys; print(len(sys.stdin.read()))", stdin="x" * 200_000), 20)
    assert (state.logs / "reader.log").read_text() == "200000\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as somebody else")
async def test_a_child_can_run_as_somebody_else_without_our_groups(children, state):
    account = supervision.Account("nobody", 65534, 65534)
    command = Command(["/usr/bin/id"], account=account, directory=Path("/"))
    await children.run("id", command, 20)
    assert "uid=65534" in (state.logs / "id.log").read_text()
    assert "(root)" not in (state.logs / "id.log").read_text()


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from quickstart.children import Account, Children, Command

async def supervise():
    children = Children(Path(sys.argv[1]))
    account = Account("nobody", 65534, 65534) if sys.argv[2] == "nobody" else None
    await children.start("sleeper", Command(["/bin/sleep", "600"], account=account, directory=Path("/")))
    print(children._running[0].process.pid, flush=True)
    await children.wait_for_exit()

asyncio.run(supervise())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does this on Linux alone")
@pytest.mark.parametrize("user", ["ourselves", "nobody"])
async def test_children_end_with_a_supervisor_that_is_killed(state, user):
    if user == "nobody" and os.geteuid() != 0:
        pytest.skip("only root can start a process as somebody else")
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, state.logs, user], stdout=subprocess.PIPE, text=True
    )
    try:
        pid = int(supervisor.stdout.readline())
        assert is_running(pid)
    finally:
        supervisor.send_signal(signal.SIGKILL)
        supervisor.communicate()
    await wait_until(lambda: not is_running(pid))
