"""A shop's Celery app, as somebody who has installed the wheel writes it: their tasks, and the fleet by one call."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import Celery, Task

from dspex_fleet import install

REDIS = os.environ["SHOP_REDIS"]

# A module `tasks` of the shop's own.
app = Celery("shop", broker=REDIS, backend=REDIS, include=["tasks"])
app.conf.task_routes = {"tasks.label": {"queue": "labels"}}
install(app)


@app.task
def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


@app.task(bind=True)
async def describe(self: Task) -> dict[str, Any]:
    """Return where a coroutine task runs."""
    await asyncio.sleep(0)
    return {"id": self.request.id, "queue": self.request.delivery_info["routing_key"], "late": self.acks_late}
