"""The Celery application: work beside the requests, and what runs by the clock."""

from __future__ import annotations

import os

from celery import Celery
from celery.schedules import crontab
from django.conf import settings

from portal.config.alive import make_touch, make_worker_step

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.config.settings")

SWEEP_SECONDS = 10
ANNOUNCE_SECONDS = 10
# Changes ask for a worker by themselves; this is for what was to be tried again, and for messages that got lost.
RECONCILE_SECONDS = 3
REPAIR_SECONDS = 60
SECRETS_SECONDS = 10

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
    beat_scheduler="portal.config.alive:AliveScheduler",
    moorline_alive_file=settings.MOORLINE_ALIVE_FILE,
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
        "reconcile what is due": {
            "task": "portal.tasks.reconcile_due",
            "schedule": RECONCILE_SECONDS,
            "options": {"expires": RECONCILE_SECONDS},
        },
        "repair drift": {
            "task": "portal.tasks.repair_drift",
            "schedule": REPAIR_SECONDS,
            "options": {"expires": REPAIR_SECONDS},
        },
        "check Secrets": {
            "task": "portal.tasks.check_secrets",
            "schedule": SECRETS_SECONDS,
            "options": {"expires": SECRETS_SECONDS},
        },
        "prune closed sessions": {
            "task": "portal.tasks.prune_closed_sessions",
            "schedule": crontab(hour="3", minute="10"),
        },
    },
)

app.steps["worker"].add(make_worker_step(make_touch(settings.MOORLINE_ALIVE_FILE)))
