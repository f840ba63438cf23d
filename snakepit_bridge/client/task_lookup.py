"""Locating a task without a result: for the errors of timed-out waits and of unknown ids."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.protocol.messages import PREDICT_BATCH, code_queue
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

_STEPS = (0, 3, 6, 9)
# Messages can't be looked up by their task, so no more than so many are read.
_MAX_MESSAGES = 2_000


@dataclass(frozen=True, slots=True)
class TaskLocation:
    """What the broker knows of a task.

    Attributes:
        place: where it is, as the end of a sentence that begins with "It"; empty where it wasn't found.
        certain: whether all that there is was looked through.
    """

    place: str = ""
    certain: bool = True


class TaskFinder:
    """Looks for tasks in a broker's Redis. It reads whole queues, so use it for diagnosis only.

    Args:
        connection: the way to the Redis that is the broker too.
        namespace: the fleet's.
        queue: where its predictions wait.
    """

    def __init__(self, connection: RedisConnection, namespace: str, queue: str) -> None:
        self._connection = connection
        self._layout = DeliveryKeys.of(namespace)
        self._queues = (queue, code_queue(queue))
        self._parked = f"{FleetKeys(namespace).limits}messages"
        self._batched = f"{FleetKeys(namespace).lm_batches}parked"

    def __str__(self) -> str:
        queue, _ = self._queues
        return f"queue '{queue}' of {self._connection.url}"

    async def find(self, task_id: str) -> TaskLocation:
        """Return where a task is that has no result.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        looks = [(queue, self._layout.waiting(queue, step)) for queue in self._queues for step in reversed(_STEPS)]
        commands: list[tuple[Any, ...]] = [("LRANGE", name, -_MAX_MESSAGES, -1) for _, name in looks]
        rest = [
            ("HEXISTS", self._parked, task_id),
            ("HEXISTS", self._batched, task_id),
            ("ZRANGE", self._layout.delayed, 0, _MAX_MESSAGES - 1),
            ("HVALS", self._layout.dead_entries),
            ("HKEYS", self._layout.workers),
        ]
        *lists, parked, batched, delayed, dead, workers = await self._connection.send_each([*commands, *rest])
        for (queue, _), messages in zip(looks, lists, strict=True):
            if (behind := _position(task_id, reversed(messages))) is not None:
                return TaskLocation(f"waits in queue '{queue}', behind {behind} others of its priority")
        if parked:
            return TaskLocation("waits for a limit of its LM profile or session")
        if batched:
            return TaskLocation("waits for a batch of LM calls: dspex-fleet lm-batches list")
        if _position(task_id, delayed) is not None:
            return TaskLocation("is delayed for a retry")
        if _position(task_id, dead) is not None:
            return TaskLocation("was given up: dspex-fleet dead list")
        certain = all(len(messages) < _MAX_MESSAGES for messages in (*lists, delayed))
        return await self._find_at_workers(task_id, workers, certain)

    async def _find_at_workers(self, task_id: str, workers: list[bytes], certain: bool) -> TaskLocation:
        held = await self._connection.send_each([("HVALS", self._layout.held(worker.decode())) for worker in workers])
        if any(_position(task_id, records) is not None for records in held):
            return TaskLocation("is with a worker")
        return TaskLocation(certain=certain)


def _position(task_id: str, messages: Iterable[bytes]) -> int | None:
    """Return how many messages stand before the task's; None if it is in none of them."""
    for place, raw in enumerate(messages):
        if task_id.encode() in raw or task_id in _decode_batch_body(raw):
            return place
    return None


def _decode_batch_body(raw: bytes) -> str:
    """Return the body of a batch's message, in which its inputs' ids stand; kombu encodes it."""
    if PREDICT_BATCH.encode() not in raw:
        return ""
    try:
        message = json.loads(raw.partition(b"\n")[2] if not raw.startswith(b"{") else raw)
        return base64.b64decode(message["body"]).decode()
    except (ValueError, KeyError, TypeError):
        return ""  # what can't be read names no task
