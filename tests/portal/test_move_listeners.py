"""Where gateways listen for the ports of a tunnel."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command

from portal.models import HTTP_PORT, Customer, Event, Tunnel
from portal.services.events import Actor
from portal.services.tunnels import create_tunnel, move_listeners

STAFF = Actor("staff", "192.0.2.1")


def listen_ports(tunnel: Tunnel) -> dict[int, int]:
    return dict(tunnel.ports.values_list("port", "listen_port"))


def test_gateways_listen_on_another_number_and_hear_of_it(prod, notices, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        moved = move_listeners(tunnel=prod, listen_ports={25060: 25160, HTTP_PORT: 8101}, actor=STAFF)
    assert listen_ports(prod) == {25060: 25160, HTTP_PORT: 8101}
    assert moved.generation == prod.generation + 1
    assert notices() == [str(prod.pk)]
    assert Event.objects.filter(verb="tunnel.move_listeners").count() == 1


def test_a_listener_that_is_there_already_changes_nothing(prod):
    assert move_listeners(tunnel=prod, listen_ports={25060: 25060}, actor=STAFF).generation == prod.generation
    assert not Event.objects.filter(verb="tunnel.move_listeners").exists()


def test_a_number_in_use_for_another_tunnel_is_refused_with_its_name(prod, acmeco: Customer):
    create_tunnel(customer=acmeco, name="stage", tcp_ports=[25070], actor=STAFF)
    with pytest.raises(ValidationError, match="listen on 25070 for port 25070 of acmeco/stage"):
        move_listeners(tunnel=prod, listen_ports={HTTP_PORT: 8101, 25060: 25070}, actor=STAFF)
    assert listen_ports(prod)[25060] == 25060
    assert listen_ports(prod)[HTTP_PORT] != 8101


def test_a_port_that_the_tunnel_does_not_have_is_refused(prod):
    with pytest.raises(ValidationError, match="acmeco/prod has no port 22"):
        move_listeners(tunnel=prod, listen_ports={22: 2222}, actor=STAFF)


@pytest.mark.parametrize("number", [0, 65536])
def test_what_is_no_port_is_refused(prod, number):
    with pytest.raises(ValidationError):
        move_listeners(tunnel=prod, listen_ports={25060: number}, actor=STAFF)
    assert listen_ports(prod)[25060] == 25060


def test_the_command_says_where_gateways_listen(prod):
    printed = StringIO()
    call_command("move_listeners", "acmeco/prod", "25060=25160", stdout=printed)
    assert "25060 on 25160" in printed.getvalue()


@pytest.mark.parametrize("text", ["25060", "25060=", "25060=http", "x=1", "1=2=3"])
def test_the_command_refuses_what_is_no_move(prod, text):
    with pytest.raises(CommandError, match="Write PORT=NUMBER"):
        call_command("move_listeners", "acmeco/prod", text)
