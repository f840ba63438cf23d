"""The dead-letter list: messages that can't be processed, kept until an operator retries or drops them.

There are five reasons. ``lost``: the worker crashed at each delivery of the message. ``stalled``: its prediction's code
blocked a worker's event loop, and the worker was killed. ``unreadable``: no worker can decode the message.
``rejected``: the worker has no task of that name, or the task rejected the message, such as for inputs that it can't
decrypt. ``forged``: its signature isn't the fleet's, so that nothing that it says was done, and no prediction ended by
it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, cast
from uuid import uuid4

from snakepit_bridge.audit.entries import AuditSource
from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.delivery.keys import SEPARATOR, DeliveryKeys
from snakepit_bridge.exceptions import DeadMessageNotFoundError, PredictionGivenUpError
from snakepit_bridge.protocol.messages import extract_task_ids
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import ScriptPackage

_SCRIPTS = ScriptPackage("snakepit_bridge.delivery")
FORGED = "forged"
"""The reason of a message that wasn't sent by the fleet."""

_RESULT_PREFIX = "celery-task-meta-"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in the dead-letter list.

    Attributes:
        id: its id in the dead-letter list.
        reason: ``lost``, ``stalled``, ``unreadable``, ``rejected`` or ``forged``.
        error: the last error.
        list: the Redis list that it came from, and that a retry puts it back to.
        task, task_id: of the message, if it can be decoded.
        task_ids: of the predictions in the message; for a batch those of all inputs.
        deliveries: how often it was delivered.
        at: Unix time in seconds at which it was dead-lettered.
        message: the message's bytes.
    """

    id: str
    reason: str
    error: str
    list: str
    task: str | None
    task_id: str | None
    task_ids: tuple[str, ...]
    deliveries: int
    at: float
    message: bytes

    @classmethod
    def parse(cls, id: str, entry: bytes) -> Self:
        """Parse an entry of the dead-letter list."""
        header, _, message = entry.partition(b"\n")
        fields: dict[str, Any] = json.loads(header)
        return cls(
            id=id,
            reason=str(fields["reason"]),
            error=str(fields["error"]),
            list=str(fields["list"]),
            task=fields.get("task"),
            task_id=fields.get("task_id"),
            task_ids=tuple(extract_task_ids({**fields, "id": fields.get("task_id")})),
            deliveries=int(fields.get("deliveries", 1)),
            at=float(fields["at"]),
            message=message,
        )

    @property
    def queue(self) -> str:
        """The queue of the message."""
        return self.list.partition(SEPARATOR)[0]

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {**asdict(self), "queue": self.queue, "message": self.message.decode(errors="backslashreplace")}

    def reset(self) -> bytes:
        """Return the message with its delivery count reset, or unchanged if it can't be decoded."""
        try:
            envelope: Any = json.loads(self.message)
            envelope["properties"].pop("deliveries", None)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return self.message
        return json.dumps(envelope).encode()


def _is_given_up(stored: bytes | None) -> bool:
    result: Any = json.loads(stored)["result"] if stored else None
    return isinstance(result, dict) and cast(Any, result).get("exc_type") == PredictionGivenUpError.__name__


class DeadLetters:
    """The dead-letter list of a fleet.

    Args:
        connection: the broker's Redis.
        namespace: prefix of the fleet's keys.
        results: the Redis of the results, if it isn't the broker's.
        send: sends a message whose queue isn't in this Redis; may block.
        source: where retries and drops come from, for the audit trail.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        results: RedisConnection | None = None,
        send: Callable[[DeadLetter], None] | None = None,
        source: AuditSource = AuditSource.CLIENT,
    ) -> None:
        self._connection = connection
        self._trail = RedisAuditTrail(connection, namespace=namespace, source=source)
        self._send = send
        self._results = results or connection
        self._keys = DeliveryKeys.of(namespace)

    async def count(self) -> int:
        """Return the number of dead letters.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        (count,) = await self._connection.send_each([("ZCARD", self._keys.dead)])
        return count

    async def ids(self) -> list[str]:
        """Return the ids of all dead letters, oldest first.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        (ids,) = await self._connection.send_each([("ZRANGE", self._keys.dead, 0, -1)])
        return [id.decode() for id in ids]

    async def latest(self, limit: int = 100) -> list[DeadLetter]:
        """Return the latest dead letters, newest first.

        Args:
            limit: maximum number.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        (ids,) = await self._connection.send_each([("ZREVRANGE", self._keys.dead, 0, limit - 1)])
        if not ids:
            return []
        (entries,) = await self._connection.send_each([("HMGET", self._keys.dead_entries, *ids)])
        pairs = zip(ids, entries, strict=True)
        return [DeadLetter.parse(id.decode(), entry) for id, entry in pairs if entry is not None]

    async def get(self, id: str) -> DeadLetter:
        """Return the dead letter with an id.

        Raises:
            DeadMessageNotFoundError: no dead letter has this id.
            StoreUnavailableError: Redis is unreachable.
        """
        (entry,) = await self._connection.send_each([("HGET", self._keys.dead_entries, id)])
        if entry is None:
            raise DeadMessageNotFoundError(id)
        return DeadLetter.parse(id, entry)

    async def retry(self, id: str, *, author: str = "") -> DeadLetter:
        """Put a dead letter back into its queue, as if never delivered, and return it.

        Its failure result is deleted, so that the task can get another.

        Args:
            id: of the dead letter.
            author: who retries it, for the audit trail.

        Raises:
            DeadMessageNotFoundError: no dead letter has this id.
            StoreUnavailableError: Redis is unreachable.
        """
        dead = await self.get(id)
        await self._forget_result(dead)
        if self._send is not None:
            await asyncio.to_thread(self._send, dead)
            await self._remove(id, "dead.retry", author)
            return dead
        if not await self._run("retry", id, [dead.list], [dead.reset(), author]):
            raise DeadMessageNotFoundError(id)
        return dead

    async def drop(self, id: str, *, author: str = "") -> None:
        """Drop a dead letter.

        Args:
            id: of the dead letter.
            author: who drops it, for the audit trail.

        Raises:
            DeadMessageNotFoundError: no dead letter has this id.
            StoreUnavailableError: Redis is unreachable.
        """
        await self._remove(id, "dead.drop", author)

    async def _remove(self, id: str, action: str, author: str) -> None:
        if not await self._run("drop", id, [], [action, author]):
            raise DeadMessageNotFoundError(id)

    async def _forget_result(self, dead: DeadLetter) -> None:
        keys = [f"{_RESULT_PREFIX}{task_id}" for task_id in dead.task_ids]
        if not keys:
            return
        stored = await self._results.send_each([("GET", key) for key in keys])
        given_up = [key for key, result in zip(keys, stored, strict=True) if _is_given_up(result)]
        if given_up:
            await self._results.send_each([("DEL", key) for key in given_up])

    async def _run(self, script: str, id: str, keys: Sequence[str], args: Sequence[Any]) -> bool:
        # redis-py sends a command again if its reply is lost, so the script stores that it has run.
        done = f"{self._keys.base}:done:{uuid4().hex}"
        keys = [done, self._keys.dead, self._keys.dead_entries, *keys]
        tail = self._trail.build_args(f"dead:{id}")
        return bool(await self._connection.run(_SCRIPTS[script], keys, [id, *args, *tail]))
