from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.addresses import listeners
from portal.management.base import read_actor, say_errors, split_path
from portal.models import Customer, Tunnel
from portal.services.tunnels import create_tunnel


class Command(BaseCommand):
    help = "Create a tunnel of a customer."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tunnel", help="customer/tunnel, such as acmeco/prod")
        parser.add_argument("--tcp-port", action="append", default=[], help="a port it answers on; may be repeated")
        parser.add_argument("--host-name", action="append", default=[], help="an HTTP host name; may be repeated")
        parser.add_argument("--max-sessions", type=int, help="how many clients at once")
        parser.add_argument("--max-streams", type=int, help="how many connections one client carries at once")
        parser.add_argument("--if-absent", action="store_true", help="leave one that exists as it is")

    def handle(self, *args: Any, **options: Any) -> None:
        customer_name, name = split_path(options["tunnel"])
        with say_errors():
            if options["if_absent"] and Tunnel.objects.filter(customer__name=customer_name, name=name).exists():
                self.stdout.write(f"{options['tunnel']} exists.")
                return
            customer = Customer.objects.filter(name=customer_name).first()
            if customer is None:
                raise CommandError(
                    f"There is no customer {customer_name}. Create it with: manage.py create_customer {customer_name}"
                )
            tunnel = create_tunnel(
                customer=customer,
                name=name,
                tcp_ports=options["tcp_port"],
                host_names=options["host_name"],
                max_sessions=options["max_sessions"],
                max_streams=options["max_streams"],
                actor=read_actor(),
            )
            ports = listeners(tunnel)
        self.stdout.write(f"Created {tunnel}; gateways listen for {ports}.")
