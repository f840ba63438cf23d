"""An application's own Celery app: its tasks stand before, between and behind predictions in canvases."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from snakepit_bridge.client import Fleet

URL = os.environ.get("DSPEX_REDIS_URL", "redis://127.0.0.1:6379/0")

app = Celery("shop", broker=URL, backend=URL, set_as_current=False)
app.conf.update(
    task_default_queue="shop",
    task_routes={"shop.total": {"queue": "shop-totals"}},
    result_expires=600,
    broker_connection_retry_on_startup=True,
)
fleet = Fleet(URL)


@app.task(name="shop.ask")
def ask(text: str) -> dict[str, Any]:
    """Return the inputs of a prediction."""
    return {"question": text}


@app.task(name="shop.shout")
def shout(result: dict[str, Any]) -> str:
    """Return a prediction's answer in capitals."""
    return str(fleet.prediction(result).answer).upper()


@app.task(name="shop.total")
def total(results: list[dict[str, Any]]) -> int:
    """Return how long the answers of many predictions are together."""
    return sum(len(str(fleet.prediction(result).answer)) for result in results)


@app.task(name="shop.failed")
def failed(task_id: str) -> None:
    """Note a failure where the test looks for it; an errback that another app sends gets the id alone."""
    app.backend.client.set(f"celery-task-meta-failed-{task_id}", "failed", ex=600)
