"""Taken and free ports."""

import socket

import pytest

from quickstart.errors import StartFailed
from quickstart.ports import check_port, find_free_port


def test_a_port_in_use_is_named_with_the_variable_that_changes_it():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(StartFailed) as refusal:
            check_port(port, "MOORLINE_PORT", "portal and gateway")
    message = str(refusal.value)
    assert f"Port {port} (portal and gateway) is in use" in message
    assert f"MOORLINE_PORT={port + 100}" in message
    assert "\n" not in message


def test_a_port_that_was_in_use_a_moment_ago_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the server's side closes first and keeps TIME_WAIT
            assert client.recv(1) == b""
    check_port(port, "MOORLINE_PORT", "portal and gateway")


def test_a_free_port_can_be_listened_on():
    with socket.create_server(("127.0.0.1", find_free_port())) as server:
        assert server.getsockname()[1] > 0
