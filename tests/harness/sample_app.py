"""The smallest Celery app, to prove the harness itself; the tests of the fleet run ``workers.app``."""

from __future__ import annotations

import os

from celery import Celery

URL = os.environ.get("DSPEX_REDIS_URL", "redis://127.0.0.1:6379/0")

app = Celery("sample", broker=URL, backend=URL, set_as_current=False)
# Acknowledged early: Celery 5.7.0's stock worker exits if the broker goes while it holds an unacknowledged message.
app.conf.update(task_default_queue="sample", result_expires=60, broker_connection_retry_on_startup=True)


@app.task(name="sample.add")
def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


@app.task(name="sample.where")
def where() -> int:
    """Return the id of the process that ran it."""
    return os.getpid()
