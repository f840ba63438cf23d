"""Dead messages: those that the fleet has given up, kept whole until an operator tries them again or drops them.

There are four reasons. ``lost``: the message went down with its worker each time that it was given out. ``stalled``:
its prediction's code held up a worker, which was ended for that. ``unreadable``: it is no message that a worker can
take. ``rejected``: a worker had no task of its name, or the task refused it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, cast
from uuid import uuid4

from snakepit_bridge.delivery.keys import SEPARATOR, DeliveryKeys
from snakepit_bridge.exceptions import DeadMessageNotFoundError, PredictionGivenUpError
from snakepit_bridge.protocol.messages import task_ids_of
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import ScriptPackage

_SCRIPTS = ScriptPackage("snakepit_bridge.delivery")
_RESULT = "celery-task-meta-"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead message.

    Attributes:
        id: names it in the dead list.
        reason: ``lost``, ``stalled``, ``unreadable`` or ``rejected``.
        error: the last thing that went wrong with it.
        list: the list that it came from, and goes back to.
        task, task_id: what it asked for, as far as it can be read.
        task_ids: the predictions that it asked for; for a batch those of all inputs.
        deliveries: how often it was given out.
        at: Unix time at which it was given up.
        message: the message itself, byte for byte.
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
    def of(cls, id: str, entry: bytes) -> Self:
        """Returns the message of an entry in the dead list."""
        known, _, message = entry.partition(b"\n")
        told: dict[str, Any] = json.loads(known)
        return cls(
            id=id,
            reason=str(told["reason"]),
            error=str(told["error"]),
            list=str(told["list"]),
            task=told.get("task"),
            task_id=told.get("task_id"),
            task_ids=tuple(task_ids_of({**told, "id": told.get("task_id")})),
            deliveries=int(told.get("deliveries", 1)),
            at=float(told["at"]),
            message=message,
        )

    @property
    def queue(self) -> str:
        """The queue that it waited in."""
        return self.list.partition(SEPARATOR)[0]

    def told(self) -> dict[str, Any]:
        """Returns what there is to tell, as JSON values."""
        return {**asdict(self), "queue": self.queue, "message": self.message.decode(errors="backslashreplace")}

    def renewed(self) -> bytes:
        """Returns the message as one that was never given out; as it is, where it can't be read."""
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
    """The dead list of a fleet.

    Args:
        connection: the way to the broker's Redis.
        namespace: prefix of the fleet's keys.
        results: the way to the results, where they aren't in the broker's Redis.
    """

    def __init__(
        self, connection: RedisConnection, *, namespace: str = "dspex", results: RedisConnection | None = None
    ) -> None:
        self._connection = connection
        self._results = results or connection
        self._layout = DeliveryKeys.of(namespace)

    async def count(self) -> int:
        """Returns how many there are.

        Raises:
            StoreUnavailableError
        """
        (count,) = await self._connection.send_each([("ZCARD", self._layout.dead)])
        return count

    async def ids(self) -> list[str]:
        """Returns the ids of all, oldest first.

        Raises:
            StoreUnavailableError
        """
        (found,) = await self._connection.send_each([("ZRANGE", self._layout.dead, 0, -1)])
        return [id.decode() for id in found]

    async def latest(self, limit: int = 100) -> list[DeadLetter]:
        """Returns those that were given up last, newest first.

        Raises:
            StoreUnavailableError
        """
        (found,) = await self._connection.send_each([("ZREVRANGE", self._layout.dead, 0, limit - 1)])
        if not found:
            return []
        (entries,) = await self._connection.send_each([("HMGET", self._layout.dead_entries, *found)])
        pairs = zip(found, entries, strict=True)
        return [DeadLetter.of(id.decode(), entry) for id, entry in pairs if entry is not None]

    async def get(self, id: str) -> DeadLetter:
        """Returns one.

        Raises:
            DeadMessageNotFoundError: there is none of this id.
            StoreUnavailableError
        """
        (entry,) = await self._connection.send_each([("HGET", self._layout.dead_entries, id)])
        if entry is None:
            raise DeadMessageNotFoundError(id)
        return DeadLetter.of(id, entry)

    async def retry(self, id: str, send: Callable[[DeadLetter], None] | None = None) -> DeadLetter:
        """Puts one back to its queue, as a message that was never given out, and returns it.

        The result that says it was given up goes, so that its task can have another.

        Args:
            id: which one.
            send: sends it, blocking, where its queue isn't in this Redis.

        Raises:
            DeadMessageNotFoundError: there is none of this id.
            StoreUnavailableError
        """
        dead = await self.get(id)
        await self._forget_result(dead)
        if send is not None:
            await asyncio.to_thread(send, dead)
            await self.drop(id)
            return dead
        if not await self._run("retry", id, [dead.list], [dead.renewed()]):
            raise DeadMessageNotFoundError(id)
        return dead

    async def drop(self, id: str) -> None:
        """Forgets one.

        Raises:
            DeadMessageNotFoundError: there is none of this id.
            StoreUnavailableError
        """
        if not await self._run("drop", id, [], []):
            raise DeadMessageNotFoundError(id)

    async def _forget_result(self, dead: DeadLetter) -> None:
        keys = [f"{_RESULT}{task_id}" for task_id in dead.task_ids]
        if not keys:
            return
        stored = await self._results.send_each([("GET", key) for key in keys])
        given_up = [key for key, one in zip(keys, stored, strict=True) if _is_given_up(one)]
        if given_up:
            await self._results.send_each([("DEL", key) for key in given_up])

    async def _run(self, script: str, id: str, keys: Sequence[str], args: Sequence[Any]) -> bool:
        layout = self._layout
        # redis-py sends a command again when its answer is lost.
        once = f"{layout.base}:done:{uuid4().hex}"
        keys = [once, layout.dead, layout.dead_entries, *keys]
        return bool(await self._connection.run(_SCRIPTS[script], keys, [id, *args]))
