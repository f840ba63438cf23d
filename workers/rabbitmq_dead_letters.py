"""Dead-lettering on brokers other than Redis, such as RabbitMQ.

Our transport moves a message to the dead-letter list and settles its claim atomically. Another broker drops rejected
messages, and clients would wait for their predictions for ever. So here a rejected message is written to the
dead-letter list in Redis first, with errors for its predictions, and acknowledged once that is stored, where the
message asks for it on replicas or disks.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from celery.exceptions import Reject

from snakepit_bridge.client.rabbitmq import RETRIED, is_rabbitmq
from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.exceptions import NotReplicatedError, StoreUnavailableError
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.redis.connection import mask_url
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.replication import Replication, read_durability
from workers import task_ends as endings
from workers.broker import message as envelope

# Less than the client waits for a reply; it is waited again as often as it takes.
_WAIT_S = 1.0
# Apart from other ends, which aren't held up by replicas.
_CONFIRMATIONS = endings.EndCommitter()
after_fork_in_child(_CONFIRMATIONS.clear)

_REJECTED = ("rejected", "a worker has no task of its name, or the task rejected it")


class GivenUp(Reject):
    """Raised for a message that has crashed too many workers."""

    @property
    def deaths(self) -> int:
        """The number of workers that died."""
        return int(str(self.reason))


def stores_dead_letters(app: Any) -> bool:
    """Check whether dead letters have to be stored outside the broker."""
    return is_rabbitmq(str(app.conf.broker_url or ""))


def mark_rejected(message: Any, reason: str, error: str, deliveries: int = 1) -> None:
    """Record why a message is about to be rejected, for the dead-letter list."""
    message.dead_letter_reason = (reason, error, deliveries)
    rejected = getattr(message.channel, "rejected", None)
    if rejected is not None:
        rejected[message.delivery_tag] = (reason, error)


def dead_letter_on_reject(app: Any, message: Any, settle: Callable[[Callable[[], Any]], object]) -> None:
    """Dead-letter a message when it is rejected without requeueing.

    Args:
        app: the worker's app.
        message: the delivered message.
        settle: schedules a function, which acknowledges the message, in its connection's thread.
    """
    reject = message.reject

    def give_up(requeue: bool = False) -> None:
        if requeue:
            reject(requeue=True)
            return
        reason, error, deliveries = getattr(message, "dead_letter_reason", None) or (*_REJECTED, 1)
        entry = _to_envelope(message, deliveries)
        summary = {"reason": reason, "error": error, "at": time.time(), **envelope.summarize(entry)}
        durability = read_durability(message.headers or {})
        summary["list"] = str((message.delivery_info or {}).get("routing_key") or "")

        def done() -> None:
            _store(app, summary, entry)
            if durability.waits:
                _CONFIRMATIONS.retry(confirm)
            else:
                settle(message.ack)

        def confirm() -> None:
            _confirm(app, durability)
            settle(message.ack)

        endings.end_predictions(app, summary, done)

    message.reject = give_up


def _to_envelope(message: Any, deliveries: int) -> dict[str, Any]:
    """Return a message in the format of our transport."""
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


def _store(app: Any, summary: dict[str, Any], entry: dict[str, Any]) -> None:
    """Put a message on the dead-letter list; idempotent.

    Raises:
        RedisError, OSError: Redis is unreachable.
    """
    layout, client = DeliveryKeys.of(app.settings.namespace), app.backend.client
    # A message that is rejected again, since its acknowledgement was lost, is the same entry.
    parts = (summary.get("task_id"), entry["headers"].get(RETRIED))
    name = ".".join(str(part) for part in parts if part) or str(uuid4())
    client.hset(
        layout.dead_entries, name, json.dumps(summary).encode() + b"\n" + json.dumps(entry, default=str).encode()
    )
    client.zadd(layout.dead, {name: round(summary["at"] * 1000)})


def _confirm(app: Any, durability: Replication) -> None:
    """Wait until enough servers have what is stored by now.

    Raises:
        StoreUnavailableError: they haven't in time.
        RedisError, OSError: Redis is unreachable.
    """
    waiting = replace(durability, wait_s=min(durability.wait_s, _WAIT_S))
    with app.backend.client.pipeline(transaction=False) as pipeline:
        # A write that changes nothing: what is waited for is what this connection has written, and all before it.
        pipeline.publish(FleetKeys(app.settings.namespace).replies("durability"), "")
        pipeline.execute_command(*waiting.command)
        *_, reply = pipeline.execute()
    try:
        waiting.check(waiting.count(reply), "A dead letter")
    except NotReplicatedError as exc:
        raise StoreUnavailableError(mask_url(str(app.conf.result_backend)), str(exc).rstrip(".")) from exc
