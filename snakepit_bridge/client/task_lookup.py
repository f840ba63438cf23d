"""Locating a task without a result: for the errors of timed-out waits and of unknown ids."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.protocol.messages import code_queue
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

_STEPS = (0, 3, 6, 9)
# Messages can't be looked up by their task, so no more than so many are read.
_MAX_MESSAGES = 2_000

_BY_LIMIT = "waits for a limit of its LM profile or session"
_BY_BATCH = "waits for a batch of LM calls: dspex-fleet lm-batches list"


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
        forms = _written_forms(task_id)
        looks = [(queue, self._layout.waiting(queue, step)) for queue in self._queues for step in reversed(_STEPS)]
        commands: list[tuple[Any, ...]] = [("LRANGE", name, -_MAX_MESSAGES, -1) for _, name in looks]
        rest = [
            ("HEXISTS", self._parked, task_id),
            ("HEXISTS", self._batched, task_id),
            ("HLEN", self._parked),
            ("HLEN", self._batched),
            ("ZRANGE", self._layout.delayed, 0, _MAX_MESSAGES - 1),
            ("HVALS", self._layout.dead_entries),
            ("HKEYS", self._layout.workers),
        ]
        *lists, parked, batched, parked_count, batched_count, delayed, dead, workers = await self._connection.send_each(
            [*commands, *rest]
        )
        for (queue, _), messages in zip(looks, lists, strict=True):
            if (behind := _position(forms, reversed(messages))) is not None:
                return TaskLocation(f"waits in queue '{queue}', behind {behind} others of its priority")
        if parked:
            return TaskLocation(_BY_LIMIT)
        if batched:
            return TaskLocation(_BY_BATCH)
        if _position(forms, delayed) is not None:
            return TaskLocation("is delayed for a retry")
        if _position(forms, dead) is not None:
            return TaskLocation("was given up: dspex-fleet dead list")
        certain = all(len(messages) < _MAX_MESSAGES for messages in (*lists, delayed))
        # Where many are parked, a later step of a chain isn't looked for among them.
        certain = certain and parked_count + batched_count < _MAX_MESSAGES
        hashes = {self._parked: _BY_LIMIT, self._batched: _BY_BATCH} if certain else {}
        hashes |= {self._layout.held(worker.decode()): "is with a worker" for worker in workers}
        found = await self._connection.send_each([("HVALS", name) for name in hashes])
        for place, records in zip(hashes.values(), found, strict=True):
            if _position(forms, records) is not None:
                return TaskLocation(place)
        return TaskLocation(certain=certain)


def _position(forms: list[bytes], messages: Iterable[bytes]) -> int | None:
    """Return how many messages stand before the task's; None if it is in none of them."""
    for place, raw in enumerate(messages):
        if any(form in raw for form in forms):
            return place
    return None


def _written_forms(task_id: str) -> list[bytes]:
    """Return how a task's id may stand in a message: as it is, or in base64 at each of the three alignments.

    kombu encodes the body, which has the ids of a batch's inputs, and of a chain's later steps.
    """
    text = task_id.encode()
    forms = [text]
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + text)
        # Of the characters at both ends a part is made of the bytes around the id.
        forms.append(encoded[-(-8 * before // 6) : 8 * (before + len(text)) // 6])
    return forms
