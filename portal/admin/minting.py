"""Mint a token for a tunnel: the form, and the page that shows the token once."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from portal.addresses import EXAMPLE_ADDRESS, TOKEN_COMMAND, client_command
from portal.admin.base import read_actor
from portal.models import Tunnel
from portal.services import tokens

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

NEVER = ""
LIFETIMES = [(NEVER, "Never"), ("1", "In a day"), ("7", "In a week"), ("30", "In 30 days"), ("365", "In a year")]
# The forms one person may have open at once; the oldest lapse.
OPEN_FORMS = 20
FORM_KEYS = "mint_form_keys"


class MintForm(forms.Form):
    """What is said about a token before it exists."""

    name = forms.CharField(
        max_length=100,
        widget=UnfoldAdminTextInputWidget,
        help_text="Where it will be used, such as the name of the customer's machine.",
    )
    expires = forms.ChoiceField(
        choices=LIFETIMES,
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="Its sessions end when it expires.",
    )

    def expires_at(self) -> datetime | None:
        """Turn the chosen number of days into a time."""
        days = self.cleaned_data["expires"]
        return timezone.now() + timedelta(days=int(days)) if days else None


def show_mint_page(model_admin: ModelAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    """Show the form on GET; mint a token on POST and show it, once for each form that was shown."""
    tunnel = get_object_or_404(Tunnel.objects.select_related("customer"), pk=object_id)
    back = reverse("admin:portal_tunnel_change", args=[tunnel.pk])
    form = MintForm(request.POST or None)
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "original": tunnel,
        "back": back,
    }
    if request.method != "POST" or not form.is_valid():
        form_key = request.POST.get("form_key") or _issue_form_key(request)
        context |= {"title": f"Mint a token for {tunnel}", "form": form, "form_key": form_key}
        return TemplateResponse(request, "admin/portal/mint.html", context)
    if not _spend_form_key(request, request.POST.get("form_key", "")):
        messages.warning(request, "This form was sent before: its token was shown already. No other was minted.")
        return HttpResponseRedirect(back)
    token, plain_text = tokens.mint_token(
        tunnel=tunnel, name=form.cleaned_data["name"], expires_at=form.expires_at(), actor=read_actor(request)
    )
    messages.success(request, f"The token {token.name} was minted.")
    command = client_command(tunnel)
    context |= {
        "title": f"Token for {tunnel}",
        "token": token,
        "plain_text": plain_text,
        "token_command": TOKEN_COMMAND,
        "command": command,
        "has_upstreams": EXAMPLE_ADDRESS in command,
        "example_address": EXAMPLE_ADDRESS,
    }
    # No cache keeps a page of the admin: nobody sees the plain text again.
    return TemplateResponse(request, "admin/portal/minted.html", context)


def _issue_form_key(request: HttpRequest) -> str:
    key = secrets.token_urlsafe(16)
    request.session[FORM_KEYS] = [*request.session.get(FORM_KEYS, []), key][-OPEN_FORMS:]
    return key


def _spend_form_key(request: HttpRequest, key: str) -> bool:
    """Use a key up, so that a page that is loaded again mints nothing; say whether it was there."""
    keys = request.session.get(FORM_KEYS, [])
    if key not in keys:
        return False
    request.session[FORM_KEYS] = [one for one in keys if one != key]
    # Now, not with the answer: another request with this key may be on its way.
    request.session.save()
    return True
