from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import yaml
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.cluster.api import without_absent
from portal.cluster.render import make_namespace, render_tunnel
from portal.cluster.spec import Endpoint, PortSpec, TunnelSpec, read_installation, read_tunnels
from portal.management.base import find_tunnel, say_errors, split_path
from portal.models import HTTP_PORT
from portal.models.names import validate_customer_name, validate_tunnel_name
from portal.services.tunnels import clean_host_names, clean_tcp_ports

FIRST_LISTEN_PORT = 20000


class Command(BaseCommand):
    help = (
        "Print the Kubernetes manifests of a tunnel, without a cluster. The tunnel is what the arguments say, and no "
        "database is asked; with --stored it is the one that the database has."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tunnel", help="customer/tunnel, such as acmeco/prod")
        parser.add_argument("--stored", action="store_true", help="read the tunnel from the database")
        parser.add_argument("--tcp-port", action="append", default=[], help="a port it answers on; may be repeated")
        parser.add_argument("--host-name", action="append", default=[], help="an HTTP host name; may be repeated")
        parser.add_argument(
            "--gateway", action="append", default=[], metavar="ADDRESS", help="a gateway that holds a session of it"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        with say_errors():
            if options["stored"]:
                if options["tcp_port"] or options["host_name"] or options["gateway"]:
                    raise CommandError("--stored takes everything from the database. Leave out what else is said.")
                (spec,) = read_tunnels([find_tunnel(options["tunnel"]).pk])
            else:
                spec = _describe(options)
            installation = read_installation()
            manifests = [
                make_namespace(installation, spec.customer, is_new=True),
                *render_tunnel(installation, spec),
            ]
        self.stdout.write(yaml.safe_dump_all(map(without_absent, manifests), sort_keys=False), ending="")


def _describe(options: dict[str, Any]) -> TunnelSpec:
    customer, name = split_path(options["tunnel"])
    validate_customer_name(customer)
    validate_tunnel_name(name)
    numbers = [HTTP_PORT, *clean_tcp_ports(options["tcp_port"])]
    listen_ports = settings.MOORLINE_LISTEN_PORTS or range(FIRST_LISTEN_PORT, FIRST_LISTEN_PORT + len(numbers))
    ports = [PortSpec(port, number, port == HTTP_PORT) for port, number in zip(numbers, listen_ports, strict=False)]
    return TunnelSpec(
        tunnel_id=0,
        customer=customer,
        name=name,
        generation=1,
        ports=tuple(ports),
        hosts=clean_host_names(options["host_name"]),
        endpoints=tuple(_read_gateway(place, address) for place, address in enumerate(options["gateway"])),
    )


def _read_gateway(place: int, text: str) -> Endpoint:
    try:
        return Endpoint(f"gateway-{place}", str(ip_address(text)))
    except ValueError:
        raise CommandError(f"{text!r} is no address. Write --gateway 10.0.0.1.") from None
