"""Ports by environment."""

import pytest

from quickstart.errors import StartFailed
from quickstart.settings import Settings, read_settings


def test_nothing_set_means_the_ports_of_the_documents():
    assert read_settings({}) == Settings(portal_port=8000, tcp_port=25060, http_port=8001)


def test_each_port_has_its_variable():
    environment = {"MOORLINE_PORT": "1", "MOORLINE_EXAMPLE_TCP_PORT": "2", "MOORLINE_EXAMPLE_HTTP_PORT": "65535"}
    assert read_settings(environment) == Settings(portal_port=1, tcp_port=2, http_port=65535)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "8000.0", "٨٠٠٠"])
def test_what_is_no_port_is_refused_with_the_name_of_its_variable(text):
    with pytest.raises(StartFailed, match="MOORLINE_EXAMPLE_TCP_PORT must be a port number from 1 to 65535"):
        read_settings({"MOORLINE_EXAMPLE_TCP_PORT": text})


def test_one_port_for_two_purposes_is_refused():
    with pytest.raises(StartFailed, match="MOORLINE_EXAMPLE_HTTP_PORT is 8000"):
        read_settings({"MOORLINE_EXAMPLE_HTTP_PORT": "8000"})
