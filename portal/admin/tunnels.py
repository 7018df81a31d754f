"""Tunnels: list, create, change, enable and disable, mint a token, delete."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from portal import queries
from portal.addresses import client_url, listeners, local_addresses, service_name
from portal.admin.base import ReadOnly, ServiceAdmin, read_actor, say_sessions_end
from portal.admin.labels import SHOWN_NAMES, label_tunnel, list_some, shorten, show_conditions
from portal.admin.minting import show_mint_page
from portal.admin.tokens import TokenInline
from portal.models import Session, Source, Tunnel, TunnelPort
from portal.queries import TunnelState
from portal.services import tunnels as services


class TunnelForm(forms.ModelForm):
    """What is desired of a tunnel; ports and host names as text."""

    tcp_ports = forms.CharField(
        label="TCP ports",
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "25060, 5432"}),
        help_text="The ports it answers on inside the cluster, with commas or spaces between.",
    )
    host_names = forms.CharField(
        label="HTTP host names",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "placeholder": "identity1.local"}),
        help_text="The names it answers to over HTTP, one a line. HTTP for any other name is the client's to decide.",
    )

    class Meta:
        model = Tunnel
        fields = [
            *("customer", "name", "enabled", "tcp_ports", "host_names", "access", "expires_at"),
            *("max_sessions", "max_streams"),
        ]
        help_texts: ClassVar[dict[str, str]] = {
            "generation": "Rises with every change to what is desired of the tunnel."
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            ports = self.instance.ports.filter(kind=TunnelPort.Kind.TCP).values_list("port", flat=True)
            self.initial["tcp_ports"] = ", ".join(str(port) for port in ports)
            self.initial["host_names"] = "\n".join(self.instance.hosts.values_list("name", flat=True))
        if self.instance.source == Source.RESOURCE:
            for name in self.fields.keys() & services.RESOURCE_FIELDS:
                self.fields[name].disabled = True

    def clean_tcp_ports(self) -> tuple[int, ...]:
        return services.clean_tcp_ports(_split(self.cleaned_data["tcp_ports"]))

    def clean_host_names(self) -> tuple[str, ...]:
        return services.clean_host_names(_split(self.cleaned_data["host_names"]))


class SessionInline(ReadOnly, TabularInline):
    """The clients that are connected now."""

    model = Session
    template_after = "admin/portal/no_rows.html"
    empty_text = "No client is connected."
    verbose_name_plural = "Connected clients"
    fields: ClassVar[list[Any]] = [
        "client",
        "client_address",
        "client_version",
        "gateway",
        "transport",
        "opened_at",
        "received",
        "sent",
    ]
    readonly_fields = fields
    extra = 0
    hide_title = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Session]:
        return super().get_queryset(request).filter(queries.IS_LIVE).select_related("token")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("portal.view_session")

    @display(description="Token")
    def client(self, session: Session) -> str:
        return str(session.token) if session.token else "none"

    @display(description="From the client")
    def received(self, session: Session) -> str:
        return filesizeformat(session.bytes_received)

    @display(description="To the client")
    def sent(self, session: Session) -> str:
        return filesizeformat(session.bytes_sent)


class StateFilter(admin.SimpleListFilter):
    """Choose tunnels by how they are now."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(TunnelState.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(state=self.value()) if self.value() else queryset


@admin.register(Tunnel)
class TunnelAdmin(ServiceAdmin):
    form = TunnelForm
    list_display = ["address", "customer", "state_label", "live_clients", "port_list", "host_list"]
    list_filter = [StateFilter, "source", "customer"]
    search_fields = ["name", "customer__name", "customer__display_name", "hosts__name", "ports__port"]
    autocomplete_fields = ["customer"]
    actions_detail = ["mint_token", "enable", "disable"]
    fieldsets = [
        (None, {"fields": ["customer", "name", "enabled"]}),
        ("What answers", {"fields": ["tcp_ports", "host_names"]}),
        ("Who may connect, and until when", {"fields": ["access", "expires_at"], "classes": ["collapse"]}),
        ("Limits", {"fields": ["max_sessions", "max_streams"], "classes": ["collapse"]}),
    ]
    status_fieldset = (
        "Now",
        {
            "fields": [
                *("state_label", "source_note", "whole_address", "answers_at", "client_url", "listen_ports"),
                *("conditions", "generation"),
            ]
        },
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tunnel]:
        return queries.annotate_tunnels(super().get_queryset(request)).prefetch_related("ports", "hosts")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [self.status_fieldset, *self.fieldsets] if obj else self.fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["customer", "name", *self.status_fieldset[1]["fields"]] if obj else []

    def get_inlines(self, request: HttpRequest, obj: Any) -> list[Any]:
        return [SessionInline, TokenInline] if obj else []

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        pointless = "enable" if Tunnel.objects.filter(pk=object_id, enabled=True).exists() else "disable"
        return [one for one in super().get_actions_detail(request, object_id) if one.path != pointless]

    @display(description="In the cluster")
    def conditions(self, tunnel: Tunnel) -> SafeString | str:
        return show_conditions(tunnel.status.conditions)

    @display(description="Kept in")
    def source_note(self, tunnel: Tunnel) -> str:
        if tunnel.source == Source.PORTAL:
            return "this portal"
        return (
            f"a Tunnel resource of {tunnel.resource_group} in the cluster: ports, host names, access and expiry change "
            f"there, with kubectl edit tunnels.{tunnel.resource_group} {tunnel.name} -n {tunnel.customer.name}"
        )

    @display(description="Address in the cluster", ordering="name")
    def address(self, tunnel: Tunnel) -> str:
        return shorten(service_name(tunnel))

    @display(description="Address in the cluster")
    def whole_address(self, tunnel: Tunnel) -> str:
        return service_name(tunnel)

    @display(description="On this machine")
    def answers_at(self, tunnel: Tunnel) -> SafeString | str:
        addresses = local_addresses(tunnel)
        lines = format_html_join("\n", "<div>{}: <code>{}</code></div>", addresses[:SHOWN_NAMES])
        if more := addresses[SHOWN_NAMES:]:
            lines += format_html("<div>+{} more, on the numbers below</div>", len(more))
        return lines or "Nowhere: gateways listen for the cluster."

    @display(description="Clients dial")
    def client_url(self, tunnel: Tunnel) -> str:
        return client_url(tunnel)

    @display(description="State", ordering="state")
    def state_label(self, tunnel: Any) -> SafeString:
        return label_tunnel(TunnelState(tunnel.state))

    @display(description="Clients", ordering="live_session_count")
    def live_clients(self, tunnel: Any) -> int:
        return tunnel.live_session_count

    @display(description="TCP ports")
    def port_list(self, tunnel: Tunnel) -> str:
        return list_some([str(port.port) for port in tunnel.ports.all() if port.kind == TunnelPort.Kind.TCP])

    @display(description="HTTP host names")
    def host_list(self, tunnel: Tunnel) -> str:
        return list_some([host.name for host in tunnel.hosts.all()])

    @display(description="Gateways listen")
    def listen_ports(self, tunnel: Tunnel) -> str:
        return listeners(tunnel)

    def has_mint_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return request.user.has_perm("portal.add_token")

    def save_model(self, request: HttpRequest, obj: Tunnel, form: TunnelForm, change: bool) -> None:
        data = form.cleaned_data
        names = ("enabled", "tcp_ports", "host_names", "access", "expires_at", "max_sessions", "max_streams")
        desired = {field: data[field] for field in names} | {"access": data["access"] or []}
        if change:
            services.update_tunnel(tunnel=obj, actor=read_actor(request), **desired)
        else:
            obj.pk = services.create_tunnel(
                customer=data["customer"], name=data["name"], actor=read_actor(request), **desired
            ).pk

    def response_add(self, request: HttpRequest, obj: Tunnel, post_url_continue: str | None = None) -> HttpResponse:
        if {"_addanother", "_continue", "_popup"} & request.POST.keys():
            return super().response_add(request, obj, post_url_continue)
        said = format_html("The tunnel {} was created.", obj)
        if self.has_mint_permission(request):
            url = reverse("admin:portal_tunnel_mint_token", args=[obj.pk])
            said += format_html(' Now <a class="underline" href="{}">mint a token</a> for its client.', url)
        messages.success(request, said)
        seen = self.has_view_or_change_permission(request)
        return HttpResponseRedirect(
            reverse("admin:portal_tunnel_change", args=[obj.pk]) if seen else reverse("admin:index")
        )

    def has_delete_permission(self, request: HttpRequest, obj: Tunnel | None = None) -> bool:
        # What a resource asks for would come back.
        is_ours = obj is None or obj.source == Source.PORTAL
        return is_ours and super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Tunnel) -> None:
        services.delete_tunnel(tunnel=obj, actor=read_actor(request))

    def list_consequences(self, obj: Tunnel) -> list[str]:
        return [
            say_sessions_end(queries.live_sessions(obj)),
            f"{service_name(obj)} answers no more inside the cluster.",
            f"Its tokens open nothing any more, {queries.active_tokens(obj).count()} of them in force. They cannot be"
            " brought back.",
            "The events stay.",
        ]

    @action(description="Mint a token", icon="key", url_path="mint-token", permissions=["mint"])
    def mint_token(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return show_mint_page(self, request, object_id)

    @action(description="Enable…", icon="play_arrow", url_path="enable", permissions=["change"])
    def enable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        tunnel = get_object_or_404(Tunnel.objects.select_related("customer"), pk=object_id)
        return self.confirm(
            request,
            tunnel,
            title=f"Enable {tunnel}?",
            consequences=["Its clients may connect again; they try by themselves."],
            button="Enable",
            back=reverse("admin:portal_tunnel_change", args=[tunnel.pk]),
            act=lambda: services.enable_tunnel(tunnel=tunnel, actor=read_actor(request)),
            done=f"{tunnel} is enabled.",
        )

    @action(description="Disable…", icon="pause", url_path="disable", permissions=["change"])
    def disable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        tunnel = get_object_or_404(Tunnel.objects.select_related("customer"), pk=object_id)
        return self.confirm(
            request,
            tunnel,
            title=f"Disable {tunnel}?",
            consequences=[
                say_sessions_end(queries.live_sessions(tunnel)),
                "Its clients are refused until you enable it. Its tokens stay.",
            ],
            button="Disable",
            back=reverse("admin:portal_tunnel_change", args=[tunnel.pk]),
            act=lambda: services.disable_tunnel(tunnel=tunnel, actor=read_actor(request)),
            done=f"{tunnel} is disabled.",
        )


def _split(text: str) -> list[str]:
    return text.replace(",", " ").split()
