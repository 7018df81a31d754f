"""Customers: list, create, change, suspend and resume, delete."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.decorators import action, display

from portal import queries
from portal.addresses import service_name
from portal.admin.base import ReadOnly, ServiceAdmin, read_actor, say_sessions_end
from portal.admin.labels import label_customer, label_tunnel, list_some, shorten, show_conditions
from portal.models import Customer, Source, Tunnel
from portal.queries import TunnelState
from portal.services import customers as services


class TunnelInline(ReadOnly, TabularInline):
    """The customer's tunnels; each leads to its own page."""

    model = Tunnel
    template_after = "admin/portal/no_rows.html"
    empty_text = "This customer has no tunnel."
    fields: ClassVar[list[Any]] = ["address_link", "state_label", "live_clients", "port_list"]
    readonly_fields = fields
    extra = 0
    hide_title = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tunnel]:
        return queries.annotate_tunnels(super().get_queryset(request)).prefetch_related("ports")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("portal.view_tunnel")

    @display(description="Address in the cluster")
    def address_link(self, tunnel: Tunnel) -> SafeString:
        url = reverse("admin:portal_tunnel_change", args=[tunnel.pk])
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', url, shorten(service_name(tunnel))
        )

    @display(description="State")
    def state_label(self, tunnel: Any) -> SafeString:
        return label_tunnel(TunnelState(tunnel.state))

    @display(description="Live clients")
    def live_clients(self, tunnel: Any) -> int:
        return tunnel.live_session_count

    @display(description="TCP ports")
    def port_list(self, tunnel: Tunnel) -> str:
        return list_some([str(port.port) for port in tunnel.ports.all() if port.kind == "tcp"])


@admin.register(Customer)
class CustomerAdmin(ServiceAdmin):
    list_display = ["short_name", "short_display_name", "standing", "tunnel_count", "connected_count", "created_at"]
    list_filter = ["suspended", "source"]
    search_fields = ["name", "display_name", "contact_email"]
    fields = ["name", "display_name", "contact_email", "resource_quota", "isolated"]
    actions_detail = ["new_tunnel", "suspend", "resume"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Customer]:
        return queries.annotate_customers(super().get_queryset(request))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["name", "standing", "conditions", "created_at"] if obj else []

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*self.fields, "standing", "conditions", "created_at"] if obj else self.fields

    def get_inlines(self, request: HttpRequest, obj: Any) -> list[Any]:
        return [TunnelInline] if obj else []

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        pointless = "resume" if Customer.objects.filter(pk=object_id, suspended=False).exists() else "suspend"
        return [one for one in super().get_actions_detail(request, object_id) if one.path != pointless]

    @display(description="Name", ordering="name")
    def short_name(self, customer: Customer) -> SafeString | str:
        return shorten(customer.name)

    @display(description="Display name", ordering="display_name")
    def short_display_name(self, customer: Customer) -> SafeString | str:
        return shorten(customer.display_name)

    @display(description="Standing", ordering="suspended")
    def standing(self, customer: Customer) -> SafeString:
        return label_customer(customer.suspended)

    @display(description="In the cluster")
    def conditions(self, customer: Customer) -> SafeString | str:
        status = customer.status
        if status.applied_revision and not status.conditions:
            return "As desired."
        return show_conditions(status.conditions)

    @display(description="Tunnels", ordering="tunnel_count")
    def tunnel_count(self, customer: Any) -> int:
        return customer.tunnel_count

    @display(description="Connected", ordering="connected_tunnel_count")
    def connected_count(self, customer: Any) -> int:
        return customer.connected_tunnel_count

    def has_add_tunnel_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return request.user.has_perm("portal.add_tunnel")

    def save_model(self, request: HttpRequest, obj: Customer, form: ModelForm, change: bool) -> None:
        data = form.cleaned_data
        about = {field: data[field] for field in ("display_name", "contact_email", "isolated")}
        about["resource_quota"] = data["resource_quota"] or {}
        if change:
            services.update_customer(customer=obj, actor=read_actor(request), **about)
        else:
            obj.pk = services.create_customer(name=data["name"], actor=read_actor(request), **about).pk

    def has_delete_permission(self, request: HttpRequest, obj: Customer | None = None) -> bool:
        # What resources ask for would come back.
        is_ours = obj is None or not obj.tunnels.filter(source=Source.RESOURCE).exists()
        return is_ours and super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Customer) -> None:
        services.delete_customer(customer=obj, actor=read_actor(request))

    def list_consequences(self, obj: Customer) -> list[str]:
        tunnels = ", ".join(obj.tunnels.values_list("name", flat=True)) or "none"
        namespace = f"Its namespace {obj}, which Moorline made, is deleted with everything that is in it."
        return [
            f"Its tunnels are deleted: {tunnels}.",
            *([namespace] if obj.status.made_namespace else []),
            say_sessions_end(queries.live_sessions().filter(tunnel__customer=obj)),
            "Its tokens open nothing any more. They cannot be brought back.",
            "The events stay.",
        ]

    @action(description="New tunnel", icon="add", url_path="new-tunnel", permissions=["add_tunnel"])
    def new_tunnel(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:portal_tunnel_add", query={"customer": object_id}))

    @action(description="Suspend…", icon="pause", url_path="suspend", permissions=["change"])
    def suspend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        customer = get_object_or_404(Customer, pk=object_id)
        return self.confirm(
            request,
            customer,
            title=f"Suspend {customer}?",
            consequences=[
                say_sessions_end(queries.live_sessions().filter(tunnel__customer=customer)),
                "Its clients are refused until you resume it. Tunnels and tokens stay as they are.",
            ],
            button="Suspend",
            back=reverse("admin:portal_customer_change", args=[customer.pk]),
            act=lambda: services.suspend_customer(customer=customer, actor=read_actor(request)),
            done=f"{customer} is suspended.",
        )

    @action(description="Resume…", icon="play_arrow", url_path="resume", permissions=["change"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        customer = get_object_or_404(Customer, pk=object_id)
        return self.confirm(
            request,
            customer,
            title=f"Resume {customer}?",
            consequences=["Its clients may connect again; they try by themselves."],
            button="Resume",
            back=reverse("admin:portal_customer_change", args=[customer.pk]),
            act=lambda: services.resume_customer(customer=customer, actor=read_actor(request)),
            done=f"{customer} is resumed.",
        )
