"""Django's settings, from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from portal.config.environment import SettingError, read_environment
from portal.config.logs import configure_logging
from portal.config.theme import UNFOLD  # noqa: F401 - a setting as well

try:
    ENVIRONMENT = read_environment(os.environ)
    if ENVIRONMENT.database["ENGINE"].endswith("sqlite3"):
        ENVIRONMENT.database["NAME"].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
except SettingError as error:
    # Whatever program was started (manage.py, Celery, an ASGI server) ends with this one line.
    raise SystemExit(f"moorline: {error}") from None
except OSError as error:
    raise SystemExit(
        f"moorline: {error.filename} cannot be made: {error.strerror}. Set MOORLINE_DATA to a folder you can write to."
    ) from None

PORTAL = Path(__file__).resolve().parent.parent
HTTPS = urlsplit(ENVIRONMENT.public_url).scheme == "https"

# What Moorline itself asks for, under the names of the variables.
MOORLINE_DATA = ENVIRONMENT.data
MOORLINE_PORT = ENVIRONMENT.port
MOORLINE_PUBLIC_URL = ENVIRONMENT.public_url
MOORLINE_REDIS_URL = ENVIRONMENT.redis_url
MOORLINE_HTTP_LISTEN_START = ENVIRONMENT.http_listen_start
MOORLINE_TCP_LISTEN_START = ENVIRONMENT.tcp_listen_start
MOORLINE_MAX_SESSIONS = ENVIRONMENT.max_sessions
MOORLINE_MAX_STREAMS = ENVIRONMENT.max_streams
MOORLINE_GATEWAY_NAME = ENVIRONMENT.gateway_name
MOORLINE_LISTEN_HOST = ENVIRONMENT.listen_host
MOORLINE_TRUSTED_PROXIES = ENVIRONMENT.trusted_proxies
MOORLINE_DRAIN_TIMEOUT = ENVIRONMENT.drain_timeout
MOORLINE_LISTENER_LINGER = ENVIRONMENT.listener_linger
MOORLINE_GATEWAY_ADDRESS = ENVIRONMENT.gateway_address
MOORLINE_GATEWAY_CUSTOMERS = ENVIRONMENT.gateway_customers
MOORLINE_GATEWAY_LABELS = ENVIRONMENT.gateway_labels
MOORLINE_HOP_PORT = ENVIRONMENT.hop_port
MOORLINE_HOP_SECRET = ENVIRONMENT.hop_secret
MOORLINE_TARGET = ENVIRONMENT.target
MOORLINE_INSTALLATION = ENVIRONMENT.installation
MOORLINE_NAMESPACE = ENVIRONMENT.namespace
MOORLINE_TUNNELS_NAMESPACE = ENVIRONMENT.tunnels_namespace
MOORLINE_KUBECONFIG = ENVIRONMENT.kubeconfig
MOORLINE_INLETS_COMPATIBLE = ENVIRONMENT.inlets_compatible
MOORLINE_LISTEN_PORTS = ENVIRONMENT.listen_ports
MOORLINE_PORT_QUARANTINE = ENVIRONMENT.port_quarantine
MOORLINE_MAX_PORTS = ENVIRONMENT.max_ports
MOORLINE_NETWORK_POLICIES = ENVIRONMENT.network_policies
MOORLINE_CONNECT_URL = ENVIRONMENT.connect_url
MOORLINE_METRICS_PORT = ENVIRONMENT.metrics_port
MOORLINE_ALIVE_FILE = ENVIRONMENT.alive_file
MOORLINE_ADMIN_USERNAME = ENVIRONMENT.admin_username
MOORLINE_ADMIN_PASSWORD = ENVIRONMENT.admin_password

DEBUG = ENVIRONMENT.debug
SECRET_KEY = ENVIRONMENT.secret_key
ALLOWED_HOSTS = ENVIRONMENT.allowed_hosts
CSRF_TRUSTED_ORIGINS = ENVIRONMENT.csrf_trusted_origins

INSTALLED_APPS = [
    "unfold",  # before the admin, whose templates it replaces
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "portal",
]

MIDDLEWARE = [
    "portal.pages.health.answer_whatever_the_host",  # before what looks at the Host header
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "portal.config.urls"
ASGI_APPLICATION = "portal.config.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": ENVIRONMENT.database}

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [PORTAL / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
FORMAT_MODULE_PATH = ["portal.config.formats"]

STATIC_URL = "/static/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# Static files are served straight from the packages: no collectstatic between installing and starting.
WHITENOISE_USE_FINDERS = True
WHITENOISE_MAX_AGE = 60 * 60

SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_AGE = 12 * 60 * 60
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_HTTPONLY = True
SECURE_HSTS_SECONDS = 30 * 24 * 60 * 60 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if ENVIRONMENT.trust_proxy else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

LOGGING = configure_logging(log_format=ENVIRONMENT.log_format, level=ENVIRONMENT.log_level)
