"""The pages where the provider's people work. Every write goes through the services."""

from django.contrib import admin

from portal.admin import customers, records, staff, tokens, tunnels

admin.site.index_title = "Overview"

__all__ = ["customers", "records", "staff", "tokens", "tunnels"]
