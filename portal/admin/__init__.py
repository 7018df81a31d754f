"""The pages where the provider's people work. Every write goes through the services."""

from portal.admin import customers, records, staff, tokens, tunnels

__all__ = ["customers", "records", "staff", "tokens", "tunnels"]
