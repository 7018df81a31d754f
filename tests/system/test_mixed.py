"""One client that serves every form of upstream at once."""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path

import pytest
import yaml

from .installation import HTTP, Gateway, Installation, Line
from .programs import Programs
from .services import Services, answer_http, ask, greet

PORTS = (8080, 2222)
HOSTS = ("identity1.local", "identity2.local")


def get(port: int, host: str) -> tuple[int, str]:
    """Ask with GET; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": host})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


async def start_client(
    form: str, installation: Installation, programs: Programs, gateway: Gateway, line: Line, upstreams: list[str]
) -> None:
    """Start the client with *upstreams* as options, or all of it in a YAML file."""
    if form == "options":
        await installation.start_client(programs, line, gateway, *upstreams)
        return
    options = {"url": gateway.url(line.name), "token-file": str(line.token_file), "upstream": upstreams}
    file: Path = installation.state.write_private("client.yaml", yaml.safe_dump(options))
    client = await installation.run_client(programs, "--config", str(file))
    await installation.wait_for_client(client, line)


@pytest.mark.parametrize("form", ["options", "a configuration file"])
async def test_balanced_remapped_and_http_upstreams_answer_side_by_side(
    form: str, installation: Installation, programs: Programs, gateway: Gateway, services: Services
) -> None:
    line = await installation.make_line(*PORTS, hosts=HOSTS)
    one, two, shell = [await services.start(greet(name)) for name in ("one", "two", "shell")]
    first, second = [await services.start(answer_http(name)) for name in ("first", "second")]
    upstreams = [f"8080={one}", f"8080={two}", f"2222={shell}"]
    upstreams += [f"identity1.local=http://{first}", f"identity2.local=http://{second}"]
    await start_client(form, installation, programs, gateway, line, upstreams)

    assert sorted([await ask(line.listeners[8080]) for _ in range(6)]) == [b"one"] * 3 + [b"two"] * 3
    assert await ask(line.listeners[2222]) == b"shell"
    page = line.listeners[HTTP]
    assert await asyncio.to_thread(get, page, "identity1.local") == (200, "first for identity1.local")
    assert await asyncio.to_thread(get, page, "identity2.local") == (200, "second for identity2.local")
    status, body = await asyncio.to_thread(get, page, "identity3.local")
    assert status in (404, 502), body
    assert "identity3.local" in body
