"""What the pages of all models have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.admin.options import BaseModelAdmin
from django.core.exceptions import ValidationError
from django.db.models import Field, JSONField, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin

from portal.models import Session
from portal.services.events import Actor


def read_actor(request: HttpRequest) -> Actor:
    """Say who sent a request, and from where."""
    return Actor(name=request.user.get_username(), address=request.META.get("REMOTE_ADDR"))


def say_sessions_end(sessions: QuerySet[Session]) -> str:
    """Say what becomes of live sessions."""
    match sessions.count():
        case 0:
            return "No session is live."
        case 1:
            return "1 live session ends within seconds, and with it every connection inside."
        case count:
            return f"{count} live sessions end within seconds, and with them every connection inside."


JSON_ROWS = 3


class ServiceAdmin(ModelAdmin):
    """A model whose rows are written by services, one at a time."""

    # Deleting ends sessions, so each deletion is a page of its own with what it will end.
    actions: list[Any] = []
    list_per_page = 50
    warn_unsaved_form = True
    delete_confirmation_template = "admin/portal/confirm.html"
    compressed_fields = True

    def formfield_for_dbfield(self, db_field: Field, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and isinstance(db_field, JSONField):
            field.widget.attrs["rows"] = JSON_ROWS
        return field

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {name: action for name, action in super().get_actions(request).items() if name != "delete_selected"}

    def list_consequences(self, obj: Any) -> list[str]:
        """Say in sentences what deleting ``obj`` does."""
        raise NotImplementedError

    def get_deleted_objects(
        self, objs: QuerySet[Any] | list[Any], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        # Who may delete a tunnel may delete its tokens and sessions, which have no delete permission of their own.
        return [line for obj in objs for line in self.list_consequences(obj)], {}, set(), []

    def render_delete_form(self, request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
        question = {
            "title": f"Delete {context['object']}?",
            "consequences": context["deleted_objects"],
            "button": "Delete",
            "variant": "danger",
            "back": self._address_of(context["object"]),
        }
        return super().render_delete_form(request, context | question)

    def _address_of(self, obj: Model) -> str:
        options = self.model._meta
        return reverse(f"admin:{options.app_label}_{options.model_name}_change", args=[obj.pk])

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except ValidationError as error:
            # The form found nothing wrong and the service did: somebody else was faster.
            for message in error.messages:
                messages.error(request, message)
            return HttpResponseRedirect(request.get_full_path())

    def confirm(
        self,
        request: HttpRequest,
        obj: Model,
        *,
        title: str,
        consequences: list[str],
        button: str,
        back: str,
        act: Callable[[], Any],
        done: str,
    ) -> HttpResponse:
        """Ask on GET, act on POST, then go back."""
        if request.method == "POST":
            act()
            messages.success(request, done)
            return HttpResponseRedirect(back)
        return self.say(request, obj, title=title, sentences=consequences, back=back, button=button)

    def say(
        self, request: HttpRequest, obj: Model, *, title: str, sentences: list[str], back: str, button: str = ""
    ) -> HttpResponse:
        """Show sentences about a row, with a way back and, if named, a button to go on."""
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.model._meta,
            "original": obj,
            "consequences": sentences,
            "button": button,
            "back": back,
        }
        return TemplateResponse(request, "admin/portal/confirm.html", context)


class ReadOnly(BaseModelAdmin):
    """Rows that staff look at and never change here."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
