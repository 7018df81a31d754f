"""How the admin looks: its colours, and what its navigation lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _link(title: str, icon: str, model: str) -> dict[str, Any]:
    """Link to the list of a model, for those who may see it."""
    app, name = model.split(".")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{name}_changelist"),
        "permission": _may_view(f"{app}.view_{name}"),
    }


def _may_view(permission: str) -> Callable[[HttpRequest], bool]:
    return lambda request: request.user.has_perm(permission)


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Moorline",
    "SITE_HEADER": "Moorline",
    "SITE_SUBHEADER": "Private lines to your customers",
    "SITE_SYMBOL": "anchor",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("portal/anchor.svg")}],
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "4px",
    "DASHBOARD_CALLBACK": "portal.admin.dashboard.add_dashboard",
    "SIDEBAR": {
        "navigation": [
            {
                "items": [
                    {"title": "Overview", "icon": "dashboard", "link": reverse_lazy("admin:index")},
                    _link("Customers", "domain", "portal.customer"),
                    _link("Tunnels", "lan", "portal.tunnel"),
                    _link("Tokens", "key", "portal.token"),
                    _link("Sessions", "cable", "portal.session"),
                    _link("Gateways", "router", "portal.gateway"),
                    _link("Events", "history", "portal.event"),
                ]
            },
            {
                "title": "Staff",
                "separator": True,
                "items": [_link("Users", "person", "auth.user"), _link("Groups", "group", "auth.group")],
            },
        ]
    },
    "COLORS": {
        "primary": {  # a harbour blue
            "50": "oklch(97.5% .013 236)",
            "100": "oklch(94.5% .028 236)",
            "200": "oklch(89.5% .055 235)",
            "300": "oklch(82% .095 234)",
            "400": "oklch(73% .13 236)",
            "500": "oklch(64% .14 240)",
            "600": "oklch(52% .13 244)",
            "700": "oklch(46% .115 246)",
            "800": "oklch(41% .095 246)",
            "900": "oklch(36% .075 248)",
            "950": "oklch(28% .055 250)",
        }
    },
}
