"""``moorline client`` as people run it: a process, its exit codes, its lines, its documentation."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import typer.main

from tests.client.conftest import StartService
from tests.client.gateway import TOKEN, InProcessGateway, echo
from tests.client.waiting import until
from tunnels.cli.main import app, main
from tunnels.client.options import NAMES
from tunnels.protocol import ErrorCode, Target

ROOT = Path(__file__).parents[2]


class Command:
    """A running ``moorline``, with what it wrote to standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip("\n"))

    async def end(self) -> int:
        async with asyncio.timeout(20):
            await self._reading
            return await self.process.wait()


RunCommand = Callable[..., "asyncio.Future[Command]"]


@pytest.fixture
async def run_command() -> AsyncIterator[RunCommand]:
    commands: list[Command] = []

    async def run(*arguments: str, **environment: str) -> Command:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tunnels.cli", *arguments),
            cwd=ROOT,
            env=clean | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        command = Command(process)
        commands.append(command)
        return command

    yield run
    for command in commands:
        if command.process.returncode is None:
            command.process.kill()
        await command.end()


async def test_the_command_joins_a_tunnel_and_stops_in_good_order_at_sigterm(
    gateway: InProcessGateway, start_service: StartService, run_command: RunCommand, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    service = await start_service(echo)
    config = tmp_path / "client.yaml"
    config.write_text(f"upstream: 1={service.address}\nlog-format: json\n")
    command = await run_command("client", "--url", gateway.url, "--token-file", str(token), "--config", str(config))
    session = await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(1)))
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"

    command.process.send_signal(signal.SIGTERM)
    await until(lambda: session.draining is not None, "GOAWAY")
    writer.write(b"after")
    assert await reader.readexactly(5) == b"after"
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()

    assert await command.end() == 0
    assert session.ended is not None
    assert session.ended[0] is ErrorCode.SHUTDOWN
    documents = [json.loads(line) for line in command.lines]
    assert [document["event"] for document in documents][-1] == "stopped"
    assert {document["level"] for document in documents} <= {"info", "warning"}
    assert not any(TOKEN in line for line in command.lines)


async def test_the_first_signal_waits_and_the_second_one_does_not(
    gateway: InProcessGateway, start_service: StartService, run_command: RunCommand
) -> None:
    service = await start_service(echo)
    command = await run_command(
        "client", "--url", gateway.url, "--upstream", f"1={service.address}", MOORLINE_TOKEN=TOKEN
    )
    session = await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(1)))
    writer.write(b"x")
    await reader.readexactly(1)
    command.process.send_signal(signal.SIGINT)
    await until(lambda: session.draining is not None, "GOAWAY")
    command.process.send_signal(signal.SIGINT)
    assert await command.end() == 130
    writer.close()


async def test_a_killed_client_leaves_a_reset_and_not_a_hang(
    gateway: InProcessGateway, start_service: StartService, run_command: RunCommand
) -> None:
    service = await start_service(echo)
    command = await run_command(
        "client", "--url", gateway.url, "--upstream", f"1={service.address}", MOORLINE_TOKEN=TOKEN
    )
    await gateway.wait_for_session()
    reader, writer = await asyncio.open_connection(*gateway.listen(Target(1)))
    writer.write(b"x")
    await reader.readexactly(1)
    command.process.kill()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    assert await command.end() == -signal.SIGKILL
    writer.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--url wss://HOST/CUSTOMER/TUNNEL"),
        (("--upsteam", "a:1"), "--upstream"),
        (("--url",), "requires an argument"),
        (("extra",), "extra"),
        (("--url", "wss://gw.example/a/b", "--url", "wss://gw.example/a/c"), "--url is given 2 times"),
        (("--upstream-insecure", "--upstream", "a:1", "--upstream-insecure"), "--upstream-insecure is given 2 times"),
        (("--url", "wss://gw.example/a/b", "--upstream", "192.168.1.10"), "write for example 192.168.1.10:8080"),
        (("--config", "/does/not/exist.yaml"), "can't be read"),
        (("--url", "wss://gw.example/a/b", "--upstream", "a:1"), "MOORLINE_TOKEN"),
        (
            ("--url", "wss://gw.example/a/b", "--upstream", "a:1", "--token", "x", "--ca-file", __file__),
            "--ca-file: the file holds no certificate",
        ),
    ],
)
def test_options_that_cannot_be_used_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["moorline", "client", *arguments])
    for name in [name for name in os.environ if name.startswith("MOORLINE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("moorline")
    assert said in line


@pytest.mark.parametrize(("arguments", "code"), [(("--version",), 0), (("--help",), 0), (("client", "-h"), 0), ((), 2)])
def test_asking_for_help_or_the_version_needs_nothing_else(
    arguments: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["moorline", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code
    said = capsys.readouterr().out
    assert re.fullmatch(r"moorline \d+\.\d+\.\d+\n", said) if "--version" in arguments else "Usage: moorline" in said


def options_of_the_client() -> set[str]:
    command = typer.main.get_command(app).commands["client"]  # type: ignore[attr-defined]
    return {name.removeprefix("--") for parameter in command.params for name in parameter.opts} - {"help", "h", "-h"}


def test_every_option_of_the_command_can_stand_in_the_file_too() -> None:
    assert options_of_the_client() == {*NAMES, "config"}


@pytest.mark.parametrize("option", sorted(options_of_the_client()))
def test_every_option_is_documented(option: str) -> None:
    assert f"`--{option}" in (ROOT / "docs" / "client.md").read_text()


def test_every_exit_code_is_documented() -> None:
    from tunnels.client import client

    text = (ROOT / "docs" / "client.md").read_text()
    section = text.partition("exit codes\n")[2].partition("\n## ")[0]
    codes = {getattr(client, name) for name in dir(client) if name.startswith("EXIT_")}
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
