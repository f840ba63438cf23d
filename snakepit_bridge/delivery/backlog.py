"""What waits in a fleet: the depth of its queues, and the messages that are held, delayed or dead."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
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
        held: how many of its messages workers hold; of a worker that consumes several queues, an estimate.
    """

    queue: str
    priorities: str
    waiting: int
    oldest_s: float | None = 0.0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a fleet; None for what its broker doesn't tell.

    Attributes:
        queues: the depth of each queue by priorities.
        dead: messages on the dead-letter list.
        held: messages that workers have claimed and not settled.
        delayed: messages that are put aside until they are due.
        expired: messages whose lease has ever expired.
        parked: predictions that wait for a rate limit, or for a batch of LM calls.
    """

    queues: Sequence[QueueDepth] = ()
    dead: int = 0
    held: int | None = None
    delayed: int | None = None
    expired: int | None = None
    parked: int | None = None

    def by_priority(self, queue: str) -> dict[str, int]:
        """Return how many messages wait in a queue, by priorities, the most urgent first."""
        return {depth.priorities: depth.waiting for depth in self.queues if depth.queue == queue}

    def demand(self) -> dict[str, int]:
        """Return how many messages of each queue need a worker, waiting or held; empty if the broker doesn't tell.

        What is parked or delayed needs one worker of the first queue, which moves it back when its time has come.
        """
        if self.held is None:
            return {}
        found = dict.fromkeys((depth.queue for depth in self.queues), 0)
        for depth in self.queues:
            found[depth.queue] += depth.waiting + depth.held
        first = next(iter(found), None)
        if first is not None and (self.parked or self.delayed):
            found[first] = max(1, found[first])
        return found


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
    keys, fleet_keys = DeliveryKeys.of(namespace), FleetKeys(namespace)
    parked_in = (f"{fleet_keys.limits}messages", f"{fleet_keys.lm_batches}parked")
    places = [(queue, name, step) for queue in queues for name, step in PRIORITY_STEPS.items()]
    lists = [keys.waiting(queue, step) for queue, _, step in places]
    answer: list[Any] = await connection.run(_SCRIPTS["backlog"], (), (keys.base, *parked_in, *lists))
    held, delayed, dead, expired, parked, *found = answer
    now = time.time()
    depths = [
        QueueDepth(queue, name, waiting, _age_s(waiting, sent_at, now), of_queue)
        for (queue, name, _), waiting, of_queue, sent_at in zip(
            places, found[::3], found[1::3], found[2::3], strict=True
        )
    ]
    return Backlog(depths, dead, held, delayed, expired, parked)


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
