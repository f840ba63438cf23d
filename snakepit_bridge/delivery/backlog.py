"""What waits in a fleet: the depth of its queues, and the messages that are held, delayed or dead."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import ScriptPackage

PRIORITY_STEPS: Mapping[str, int] = {"9": 9, "6 to 8": 6, "3 to 5": 3, "0 to 2": 0}
"""kombu's steps of priorities, each with a list of its own, by the priorities that they hold; the most urgent first."""

ALL_PRIORITIES = "0 to 9"
"""The priorities of a queue of RabbitMQ, which doesn't count them apart."""

_SCRIPTS = ScriptPackage("snakepit_bridge.delivery")


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The messages of one queue and one step of priorities.

    Attributes:
        queue: the queue.
        priorities: such as ``6 to 8``.
        waiting: how many messages wait.
        oldest_s: seconds since the message that is served next was sent, by the clocks of its sender and of this
            process; None if the sender gave no time.
    """

    queue: str
    priorities: str
    waiting: int
    oldest_s: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a fleet; None for what its broker doesn't tell.

    Attributes:
        queues: the depth of each queue by priorities.
        dead: messages on the dead-letter list.
        held: messages that workers have claimed and not settled.
        delayed: messages that are put aside until they are due.
        expired: messages whose lease has ever expired.
    """

    queues: Sequence[QueueDepth] = ()
    dead: int = 0
    held: int | None = None
    delayed: int | None = None
    expired: int | None = None

    def by_priority(self, queue: str) -> dict[str, int]:
        """Return how many messages wait in a queue, by priorities, the most urgent first."""
        return {depth.priorities: depth.waiting for depth in self.queues if depth.queue == queue}


async def read_backlog(
    connection: RedisConnection, queues: Sequence[str] = (), *, namespace: str = DEFAULT_NAMESPACE
) -> Backlog:
    """Return what waits in a fleet, in one round trip.

    Args:
        connection: to the broker's Redis.
        queues: the queues to look at.
        namespace: of the fleet.

    Raises:
        StoreUnavailableError: Redis is unreachable.
    """
    keys = DeliveryKeys.of(namespace)
    places = [(queue, name, step) for queue in queues for name, step in PRIORITY_STEPS.items()]
    lists = [keys.waiting(queue, step) for queue, _, step in places]
    answer: list[Any] = await connection.run(_SCRIPTS["backlog"], (), (keys.base, *lists))
    held, delayed, dead, expired, *found = answer
    now = time.time()
    depths = [
        QueueDepth(queue, name, waiting, _age_s(waiting, sent_at, now))
        for (queue, name, _), waiting, sent_at in zip(places, found[::2], found[1::2], strict=True)
    ]
    return Backlog(depths, dead, held, delayed, expired)


async def count_dead(connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE) -> int:
    """Return how many messages are on the dead-letter list.

    Raises:
        StoreUnavailableError: Redis is unreachable.
    """
    (count,) = await connection.send_each([("ZCARD", DeliveryKeys.of(namespace).dead)])
    return int(count)


def _age_s(waiting: int, sent_at: bytes, now: float) -> float | None:
    if not waiting:
        return 0.0
    try:
        return max(0.0, now - float(sent_at))
    except ValueError:
        return None
