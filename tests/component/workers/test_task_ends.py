"""Endings: who waits for a prediction whose message was given up is told, and so is all that follows it."""

from __future__ import annotations

import json
import time

from redis import Redis

from config.settings import FleetSettings
from snakepit_bridge.delivery.keys import DeliveryKeys
from tests.harness.waiting import wait_until
from workers import task_ends as endings
from workers.app import FleetApp


def test_a_worker_ends_what_another_gave_up_before_it_died(redis_url: str) -> None:
    """The message was on the dead list, and its inputs had no end yet."""
    app, layout = FleetApp(FleetSettings.model_validate({"redis_url": redis_url})), DeliveryKeys()
    with Redis.from_url(redis_url) as client:
        for name, at in (("new", time.time()), ("old", time.time() - 100_000)):
            headers = {"reason": "lost", "error": "gone", "list": "q", "at": at, "task_ids": [f"{name}-a", f"{name}-b"]}
            client.zadd(layout.dead, {name: at * 1000})
            client.hset(layout.dead_entries, name, json.dumps(headers).encode() + b"\n{}")
        client.set("celery-task-meta-new-a", json.dumps({"status": "SUCCESS", "result": 1}))
        endings.end_orphans(app)
        wait_until(lambda: client.exists("celery-task-meta-new-b"), "the end that was missing")
        assert "SUCCESS" in str(client.get("celery-task-meta-new-a"))
        assert not client.exists("celery-task-meta-old-a")
