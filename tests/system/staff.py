"""Staff in a process of their own: they write the portal's rows by its services, as the admin and the commands do.

Every line of standard input is a JSON list: the name of one of the functions here and its arguments. Every line of
standard output is a JSON list: whether it went well, and the answer.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django

django.setup()

from portal.models import Customer, Session, Token, Tunnel  # noqa: E402
from portal.services import customers, tokens, tunnels  # noqa: E402
from portal.services.events import Actor  # noqa: E402

ACTOR = Actor("system tests")


def create_tunnel(
    customer: str, tunnel: str, listeners: dict[str, int], hosts: list[str], limits: dict[str, int]
) -> dict[str, Any]:
    """Make a tunnel, and its customer where there is none; *listeners* says where gateways listen for each port."""
    if not Customer.objects.filter(name=customer).exists():
        customers.create_customer(name=customer, actor=ACTOR)
    ports = {int(port): listen_port for port, listen_port in listeners.items()}
    row = tunnels.create_tunnel(
        customer=Customer.objects.get(name=customer),
        name=tunnel,
        tcp_ports=[port for port in ports if port != 8000],
        host_names=hosts,
        actor=ACTOR,
        **limits,
    )
    tunnels.move_listeners(tunnel=row, listen_ports=ports, actor=ACTOR)
    return {"tunnel_id": row.pk}


def mint_token(tunnel_id: int) -> dict[str, Any]:
    token, plain_text = tokens.mint_token(tunnel=Tunnel.objects.get(pk=tunnel_id), name="a client", actor=ACTOR)
    return {"token_id": token.pk, "token": plain_text}


def revoke_token(token_id: int) -> None:
    tokens.revoke_token(token=Token.objects.get(pk=token_id), actor=ACTOR)


def disable_tunnel(tunnel_id: int) -> None:
    tunnels.disable_tunnel(tunnel=Tunnel.objects.get(pk=tunnel_id), actor=ACTOR)


def suspend_customer(customer: str) -> None:
    customers.suspend_customer(customer=Customer.objects.get(name=customer), actor=ACTOR)


def list_sessions(tunnel_id: int) -> list[dict[str, Any]]:
    """Return what the portal knows of the tunnel's sessions, the oldest first."""
    rows = Session.objects.filter(tunnel_id=tunnel_id).order_by("opened_at")
    return [
        {
            "id": str(row.pk),
            "live": row.closed_at is None,
            "code": row.close_code,
            "reason": row.close_reason,
            "gateway": row.gateway,
            "transport": row.transport,
            "address": row.client_address,
        }
        for row in rows
    ]


def main() -> None:
    """Do what standard input says, until it ends."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = [True, globals()[name](*arguments)]
        except Exception as error:
            answer = [False, repr(error)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
