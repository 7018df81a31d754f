"""What is only looked at: gateways, sessions and events."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from portal import queries
from portal.admin.base import ReadOnly
from portal.admin.labels import label_gateway, label_session, list_some
from portal.models import Event, Gateway, Session


class LiveFilter(admin.SimpleListFilter):
    """Choose sessions that are up, or those that were."""

    title = "live"
    parameter_name = "live"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Live"), ("no", "Closed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Session]) -> QuerySet[Session]:
        return queryset.filter(closed_at__isnull=self.value() == "yes") if self.value() else queryset


@admin.register(Session)
class SessionAdmin(ReadOnly, ModelAdmin):
    list_display = ["tunnel", "state_label", "client_address", "client_version", "gateway", "opened_at", "closed_at"]
    list_filter = [LiveFilter, "gateway"]
    list_select_related = ["tunnel__customer"]
    search_fields = ["tunnel__name", "tunnel__customer__name", "client_address", "client_instance"]

    @display(description="State")
    def state_label(self, session: Session) -> SafeString:
        return label_session(session)


@admin.register(Gateway)
class GatewayAdmin(ReadOnly, ModelAdmin):
    list_display = ["name", "state_label", "address", "dedicated_to", "live_clients", "version", "last_seen_at"]
    search_fields = ["name", "address"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Gateway]:
        return queries.annotate_gateways(super().get_queryset(request))

    @display(description="State")
    def state_label(self, gateway: Gateway) -> SafeString:
        return label_gateway(gateway, timezone.now())

    @display(description="Dedicated to")
    def dedicated_to(self, gateway: Gateway) -> SafeString | str:
        return list_some(gateway.customers) if gateway.customers else "everyone"

    @display(description="Clients", ordering="live_session_count")
    def live_clients(self, gateway: Any) -> int:
        return gateway.live_session_count


@admin.register(Event)
class EventAdmin(ReadOnly, ModelAdmin):
    list_display = ["when", "actor", "verb", "customer_name", "tunnel_name", "source_address"]
    list_display_links = ["when"]
    list_filter = ["verb"]
    search_fields = ["actor", "verb", "customer_name", "tunnel_name"]
    fields: ClassVar[list[Any]] = [
        "when",
        "actor",
        "source_address",
        "verb",
        "customer_name",
        "tunnel_name",
        "shown_details",
    ]
    readonly_fields = fields

    @display(description="Details")
    def shown_details(self, event: Event) -> SafeString:
        text = json.dumps(event.details, indent=2, ensure_ascii=False)
        return format_html('<pre class="font-mono text-xs whitespace-pre-wrap">{}</pre>', text)
