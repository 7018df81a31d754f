"""How the portal is put together: environment, settings, URLs, ASGI, Celery, system checks."""
