"""Dead letters: messages that are given up where the broker isn't ours to write in, such as RabbitMQ.

Our transport moves such a message to the dead list in the step that ends its claim. A broker drops what is rejected,
and its predictions would be waited for for ever. So here it is put on the dead list first, with the ends of its
predictions, and acknowledged once that is stored.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from celery.exceptions import Reject

from snakepit_bridge.client.rabbitmq import RETRIED, is_rabbitmq
from snakepit_bridge.delivery.keys import DeliveryKeys
from workers import task_ends as endings
from workers.broker import message as envelope

_REJECTED = ("rejected", "a worker has no task of its name, or the task rejected it")


class GivenUp(Reject):
    """What a message's task ends by that has taken too many workers along."""

    @property
    def deaths(self) -> int:
        """How many."""
        return int(str(self.reason))


def stores_dead_letters(app: Any) -> bool:
    """Return whether the dead list has to be written beside the broker."""
    return is_rabbitmq(str(app.conf.broker_url or ""))


def mark_rejected(message: Any, reason: str, error: str, deliveries: int = 1) -> None:
    """Say why a message is about to be rejected."""
    message.dead_letter_reason = (reason, error, deliveries)


def dead_letter_on_reject(app: Any, message: Any, settle: Callable[[Callable[[], Any]], object]) -> None:
    """Have a message go to the dead list when it is rejected for good.

    Args:
        app: the worker's app.
        message: what was delivered.
        settle: has a function called that acknowledges it, in the thread of its connection.
    """
    reject = message.reject

    def give_up(requeue: bool = False) -> None:
        if requeue:
            reject(requeue=True)
            return
        reason, error, deliveries = getattr(message, "dead_letter_reason", None) or (*_REJECTED, 1)
        entry = _to_envelope(message, deliveries)
        told = {"reason": reason, "error": error, "at": time.time(), **envelope.summarize(entry)}
        told["list"] = str((message.delivery_info or {}).get("routing_key") or "")

        def done() -> None:
            _store(app, told, entry)
            settle(message.ack)

        endings.end_predictions(app, told, done)

    message.reject = give_up


def _to_envelope(message: Any, deliveries: int) -> dict[str, Any]:
    """Return a message as our transport would keep it."""
    body, route = message.body, message.delivery_info or {}
    given: dict[str, Any] = message.properties or {}
    return {
        "body": b64encode(body.encode() if isinstance(body, str) else bytes(body or b"")).decode(),
        "content-type": message.content_type,
        "content-encoding": message.content_encoding,
        "headers": {name: value for name, value in (message.headers or {}).items() if name != "compression"},
        "properties": {
            **{name: given[name] for name in ("correlation_id", "reply_to", "priority") if name in given},
            "body_encoding": "base64",
            "delivery_mode": 2,
            "delivery_tag": str(uuid4()),
            "delivery_info": {name: str(route.get(name) or "") for name in ("exchange", "routing_key")},
            "deliveries": deliveries,
        },
    }


def _store(app: Any, told: dict[str, Any], entry: dict[str, Any]) -> None:
    """Put a message on the dead list; twice the same is once.

    Raises:
        RedisError, OSError: Redis is away.
    """
    layout, client = DeliveryKeys.of(app.settings.namespace), app.backend.client
    # Given up twice, since its acknowledgement was lost, it is one entry.
    parts = (told.get("task_id"), entry["headers"].get(RETRIED))
    name = ".".join(str(part) for part in parts if part) or str(uuid4())
    client.hset(layout.dead_entries, name, json.dumps(told).encode() + b"\n" + json.dumps(entry, default=str).encode())
    client.zadd(layout.dead, {name: round(told["at"] * 1000)})
