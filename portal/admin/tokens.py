"""Tokens: look at them, revoke one."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.decorators import action, display

from portal import queries
from portal.admin.base import ReadOnly, ServiceAdmin, read_actor, say_sessions_end
from portal.admin.labels import label_token, shorten
from portal.models import Token
from portal.queries import TokenState
from portal.services import tokens as services


class TokenColumns:
    """How a token is shown in lists."""

    @display(description="Name", ordering="name")
    def short_name(self, token: Token) -> SafeString | str:
        return shorten(token.name)

    @display(description="Begins with")
    def shown_prefix(self, token: Token) -> str:
        return f"{token.prefix}…"

    @display(description="State")
    def state_label(self, token: Token) -> SafeString:
        return label_token(token)

    @display(description="")
    def revoke_link(self, token: Token) -> SafeString | str:
        if queries.token_state(token) == TokenState.REVOKED:
            return ""
        url = reverse("admin:portal_token_revoke", args=[token.pk])
        return format_html('<a class="text-red-600 dark:text-red-500" href="{}">Revoke…</a>', url)


class TokenInline(TokenColumns, ReadOnly, TabularInline):
    """The tokens of one tunnel."""

    model = Token
    template_after = "admin/portal/no_rows.html"
    empty_text = "No token was minted for this tunnel."
    verbose_name_plural = "Tokens"
    fields: ClassVar[list[Any]] = [
        "name",
        "shown_prefix",
        "state_label",
        "created_at",
        "created_by",
        "expires_at",
        "last_used_at",
        "revoke_link",
    ]
    readonly_fields = fields
    extra = 0
    hide_title = True
    per_page = 20

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("portal.view_token")


@admin.register(Token)
class TokenAdmin(TokenColumns, ReadOnly, ServiceAdmin):
    list_display = ["short_name", "tunnel", "shown_prefix", "state_label", "created_at", "expires_at", "last_used_at"]
    list_select_related = ["tunnel__customer"]
    search_fields = ["name", "prefix", "tunnel__name", "tunnel__customer__name"]
    fields: ClassVar[list[Any]] = [
        "tunnel",
        "name",
        "shown_prefix",
        "state_label",
        "created_at",
        "created_by",
        "expires_at",
        "revoked_at",
        "last_used_at",
    ]
    readonly_fields = fields
    actions_detail = ["revoke"]

    def has_revoke_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return request.user.has_perm("portal.change_token")

    @action(description="Revoke…", icon="block", url_path="revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        token = get_object_or_404(Token.objects.select_related("tunnel__customer"), pk=object_id)
        if queries.token_state(token) == TokenState.REVOKED:
            return self.say(
                request,
                token,
                title=f"{token} of {token.tunnel} is revoked already.",
                sentences=["It opens the tunnel no more, and cannot be brought back."],
                back=reverse("admin:portal_tunnel_change", args=[token.tunnel_id]),
            )
        return self.confirm(
            request,
            token,
            title=f"Revoke {token} of {token.tunnel}?",
            consequences=[
                say_sessions_end(queries.live_sessions(token.tunnel).filter(token=token)),
                "It opens the tunnel no more, and cannot be brought back.",
            ],
            button="Revoke",
            back=reverse("admin:portal_tunnel_change", args=[token.tunnel_id]),
            act=lambda: services.revoke_token(token=token, actor=read_actor(request)),
            done=f"{token} is revoked.",
        )
