"""Channels of the transport under test, stock ones beside them, and what their broker's keys say."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from kombu.connection import Connection
from kombu.entity import Queue
from redis import Redis

from snakepit_bridge.delivery.keys import DeliveryKeys
from tests.harness.waiting import Stopwatch

OURS, STOCK = "workers.broker:Transport", "redis"
QUEUE = "predictions"
LEASE_S = 0.5


@contextmanager
def channel(url: str, transport: str = OURS, **options: Any) -> Generator[Any]:
    """Open a channel whose queue is declared; the options are the transport's."""
    options = {"lease": LEASE_S, **options} if transport == OURS else options
    with Connection(url, transport=transport, transport_options=options) as connection:
        opened: Any = connection.channel()
        opened.queue_declare(QUEUE)
        yield opened
        opened.close()


def put(channel: Any, body: object, queue: str = QUEUE, **properties: Any) -> None:
    """Publish a body as JSON."""
    message = channel.prepare_message(
        json.dumps(body), content_type="application/json", content_encoding="utf-8", **properties
    )
    channel.basic_publish(message, exchange="", routing_key=queue)


def take(channel: Any, queue: str = QUEUE, **how: Any) -> Any:
    """Return the next message, which must be there."""
    message = channel.basic_get(queue, **how)
    assert message is not None, "the queue is empty"
    return message


class Consumer:
    """Consumes from queues by ``drain_events``, and keeps what it was given."""

    def __init__(self, channel: Any, *queues: str, room: int = 0, no_ack: bool = False) -> None:
        self.messages: list[Any] = []
        self._channel = channel
        channel.basic_qos(0, room)
        for name in queues or (QUEUE,):
            queue = Queue(name, exchange="", routing_key=name)(channel)
            queue.consume(f"tag-{name}", self.messages.append, no_ack=no_ack)

    @property
    def bodies(self) -> list[Any]:
        """What the messages say."""
        return [message.payload for message in self.messages]

    def drain(self, seconds: float = 0.2) -> list[Any]:
        """Take messages until none has come for so many seconds of a stopwatch, and return their bodies."""
        watch = Stopwatch()
        while watch.elapsed_s < seconds:
            with suppress(TimeoutError):
                self._channel.connection.drain_events(self._channel.connection, timeout=seconds)
                watch = Stopwatch()
        return self.bodies


def held(client: Redis, layout: DeliveryKeys | None = None) -> dict[str, bytes]:
    """Return every record that any worker holds, by tag."""
    found: dict[str, bytes] = {}
    for key in client.keys(f"{(layout or DeliveryKeys()).base}:held:*"):  # type: ignore[union-attr]
        found |= {tag.decode(): record for tag, record in client.hgetall(key).items()}  # type: ignore[union-attr]
    return found


def dead(client: Redis, layout: DeliveryKeys | None = None) -> list[dict[str, Any]]:
    """Return what the dead list tells, oldest first, each with its ``message``."""
    layout, events = layout or DeliveryKeys(), list[dict[str, Any]]()
    tags: Any = client.zrange(layout.dead, 0, -1)
    for tag in tags:
        entry: Any = client.hget(layout.dead_entries, tag)
        known, _, message = entry.partition(b"\n")
        events.append({**json.loads(known), "message": message})
    return events
