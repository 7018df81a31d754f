from django.apps import AppConfig


class PortalConfig(AppConfig):
    """Register the portal with Django."""

    name = "portal"
    verbose_name = "Moorline"

    def ready(self) -> None:
        from portal.config import checks  # noqa: F401, PLC0415 - importing registers the system checks
