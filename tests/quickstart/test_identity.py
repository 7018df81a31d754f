"""The example site's HTTP services."""

import http.client
import json
import sys

import pytest

from quickstart.checks import answers_as
from quickstart.children import Command
from quickstart.ports import find_free_port


@pytest.fixture
async def port(children):
    """The port of a running service."""
    port = find_free_port()
    await children.start(
        "identity1.local", Command([sys.executable, "-m", "quickstart", "identity", "identity1.local", str(port)])
    )

    async def ready():
        return await answers_as(port, "identity1.local")

    await children.wait_ready("identity1.local", ready, 20)
    return port


async def test_it_says_who_it_is_and_what_arrived_over_one_kept_alive_connection(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for path in ("/", "/users?id=1"):
        connection.request("GET", path, headers={"Host": "identity1.local", "X-Forwarded-For": "192.0.2.1"})
        answer = json.loads(connection.getresponse().read())
        assert (answer["service"], answer["path"]) == ("identity1.local", path)
        assert answer["headers"]["X-Forwarded-For"] == "192.0.2.1"
    connection.close()


async def test_head_has_no_body(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("HEAD", "/")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    connection.close()


async def test_another_name_is_not_this_service(port):
    assert not await answers_as(port, "identity2.local")
