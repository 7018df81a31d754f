"""The Celery application: work beside the requests, and what runs by the clock."""

from __future__ import annotations

import os

from celery import Celery
from celery.schedules import crontab
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.config.settings")

SWEEP_SECONDS = 30
ANNOUNCE_SECONDS = 10

app = Celery("moorline")
app.conf.update(
    broker_url=settings.MOORLINE_REDIS_URL or "redis://127.0.0.1:6379/0",
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_timeout": 10, "socket_connect_timeout": 5, "health_check_interval": 15},
    imports=["portal.tasks"],
    task_ignore_result=True,
    task_time_limit=120,
    task_soft_time_limit=100,
    timezone="UTC",
    worker_hijack_root_logger=False,
    beat_schedule_filename=str(settings.MOORLINE_DATA / "celerybeat-schedule"),
    # A task that waited longer than its interval is dropped: the next one does the same work.
    beat_schedule={
        "sweep stale sessions": {
            "task": "portal.tasks.sweep_stale_sessions",
            "schedule": SWEEP_SECONDS,
            "options": {"expires": SWEEP_SECONDS},
        },
        "announce lapsed sessions": {
            "task": "portal.tasks.announce_lapsed_sessions",
            "schedule": ANNOUNCE_SECONDS,
            "options": {"expires": ANNOUNCE_SECONDS},
        },
        "prune closed sessions": {
            "task": "portal.tasks.prune_closed_sessions",
            "schedule": crontab(hour="3", minute="10"),
        },
    },
)
