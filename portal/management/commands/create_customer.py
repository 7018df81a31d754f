from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from portal.management.base import read_actor, say_errors
from portal.models import Customer
from portal.services.customers import create_customer


class Command(BaseCommand):
    help = "Create a customer."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="a DNS label, such as acmeco")
        parser.add_argument("--display-name", default="", help="the name as people write it")
        parser.add_argument("--contact-email", default="", help="whom to write to")
        parser.add_argument("--if-absent", action="store_true", help="leave one that exists as it is")

    def handle(self, *args: Any, **options: Any) -> None:
        with say_errors():
            if options["if_absent"] and Customer.objects.filter(name=options["name"]).exists():
                self.stdout.write(f"{options['name']} exists.")
                return
            customer = create_customer(
                name=options["name"],
                display_name=options["display_name"],
                contact_email=options["contact_email"],
                actor=read_actor(),
            )
        self.stdout.write(f"Created {customer}.")
