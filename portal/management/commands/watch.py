"""``manage.py watch``: take in the Tunnel resources of a Kubernetes cluster."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

HEALTH_PORT = 8080


class Command(BaseCommand):
    help = "Watch the Tunnel resources of a Kubernetes cluster and keep rows of what they ask for, until SIGTERM."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--health-port",
            type=int,
            default=HEALTH_PORT,
            help="where GET /healthz is answered, also while another process leads (default %(default)s)",
        )

    def handle(self, **options: Any) -> None:
        if settings.MOORLINE_TARGET != "kubernetes":
            raise CommandError(
                "There is no cluster to watch: MOORLINE_TARGET is local. Set it to kubernetes, in a pod that has a "
                "service account or with MOORLINE_KUBECONFIG."
            )
        from portal.cluster.api import ClusterNotConfigured, connect  # noqa: PLC0415 - only here is a cluster needed
        from portal.cluster.watch import WatchFailed, run_watch  # noqa: PLC0415

        try:
            run_watch(connect(), health_port=options["health_port"])
        except (ClusterNotConfigured, WatchFailed) as failure:
            raise CommandError(str(failure)) from failure
