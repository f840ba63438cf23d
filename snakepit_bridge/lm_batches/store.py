"""LM requests that wait for a batch, and batches, in the broker's Redis, so that parking and leasing are one step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.lm_batches.records import LMBatch, WaitingRequest
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import Script, source

ENDED_KEPT_S = 7 * 86_400
"""Seconds for which the record of a batch is kept after its end."""

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Waiting:
    """The requests of one profile that are in no batch yet.

    Attributes:
        count: how many.
        oldest_at: Unix seconds since which the first of them waits.
    """

    count: int
    oldest_at: float


class LMBatchStore:
    """The batches of one namespace.

    Args:
        connection: the broker's Redis.
        namespace: prefix of the keys.
        claim_take: Lua text that defines ``claim_take``, for those who park predictions.
        cipher: encrypts the requests.
    """

    def __init__(
        self, connection: RedisConnection, *, namespace: str, claim_take: str = "", cipher: Cipher = PLAIN
    ) -> None:
        self.connection = connection
        self._prefix = FleetKeys(namespace).lm_batches
        self._claim_take = claim_take
        self._cipher = cipher
        self._scripts: dict[str, Script] = {}

    @property
    def lease(self) -> str:
        """The key of the collector's lease."""
        return f"{self._prefix}lease"

    # ------------------------------------------------------------------ predictions

    async def park(
        self, task_id: str, base: str, tag: str, requests: Sequence[WaitingRequest], deadline: float | None
    ) -> bool:
        """Park a prediction until its requests are answered; return False if another worker holds its message.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        deadline_ms = 0 if deadline is None else round(deadline * 1000)
        parts = [part for each in requests for part in (each.id, each.profile, each.encode(self._cipher))]
        head = (task_id, base, tag, deadline_ms, _now_ms())
        return bool(await self._run("park", *head, *parts))

    async def release(self, *task_ids: str) -> int:
        """Release predictions: the given ones, or by default those whose deadline has passed.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        return await self._run("release", _now_ms(), *task_ids)

    async def count_parked(self) -> int:
        """Return how many predictions wait for a batch."""
        return await self.connection.execute("HLEN", f"{self._prefix}parked")

    async def find_parked(self, task_ids: Sequence[str]) -> set[str]:
        """Return which of some predictions wait for a batch."""
        if not task_ids:
            return set()
        found = await self.connection.execute("HMGET", f"{self._prefix}parked", *task_ids)
        return {task for task, record in zip(task_ids, found, strict=True) if record is not None}

    # ------------------------------------------------------------------ requests

    async def waiting(self) -> Mapping[str, Waiting]:
        """Return what waits, by LM profile.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        names = [name.decode() for name in await self.connection.execute("SMEMBERS", f"{self._prefix}profiles")]
        found: dict[str, Waiting] = {}
        for name in sorted(names):
            key = f"{self._prefix}waiting:{name}"
            count = await self.connection.execute("ZCARD", key)
            first: Any = await self.connection.execute("ZRANGE", key, 0, 0, "WITHSCORES")
            if count and first:
                found[name] = Waiting(count, float(first[1] if len(first) > 1 else first[0][1]) / 1000)
        return found

    async def requests_of(self, batch: str) -> Sequence[WaitingRequest]:
        """Return the requests of a batch that have no reply yet, in the order of their ids."""
        ids = sorted(
            id_.decode() for id_ in await self.connection.execute("SMEMBERS", f"{self._prefix}members:{batch}")
        )
        found: list[WaitingRequest] = []
        for start in range(0, len(ids), _CHUNK):
            encoded = await self.connection.execute("HMGET", f"{self._prefix}requests", *ids[start : start + _CHUNK])
            found += [WaitingRequest.decode(each, self._cipher) for each in encoded if each is not None]
        return found

    async def answer(self, batch: str, requests: Iterable[WaitingRequest]) -> int:
        """Note that requests have their replies; return how many predictions that released."""
        parts = [part for request in requests for part in (request.id, request.task_id)]
        return await self._run("answer", batch, *parts) if parts else 0

    async def requeue(self, batch: LMBatch, requests: Iterable[WaitingRequest]) -> int:
        """Have requests wait for another batch; return how many of them still have somebody who waits."""
        parts = [part for each in requests for part in (each.id, each.task_id, each.encode(self._cipher))]
        return await self._run("requeue", batch.id, batch.profile, _now_ms(), *parts) if parts else 0

    # ------------------------------------------------------------------ batches

    async def form(self, owner: str, batch: LMBatch, most: int, most_bytes: int) -> int:
        """Form a batch of what has waited longest; return how many requests it has, -1 if the lease is lost."""
        return await self._run("form", owner, batch.id, batch.encode(), batch.profile, most, most_bytes)

    async def save(self, owner: str, batch: LMBatch) -> bool:
        """Store a batch's record; return False if the lease is lost."""
        kept_s = ENDED_KEPT_S if batch.state.is_over else ""
        return bool(await self._run("save", owner, batch.id, batch.encode(), kept_s))

    async def list_open(self) -> list[LMBatch]:
        """Return the batches that haven't ended, oldest first.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        found = await self.connection.execute("HVALS", f"{self._prefix}batches")
        return sorted(map(LMBatch.decode, found), key=lambda batch: (batch.created_at, batch.id))

    async def list_ended(self) -> list[LMBatch]:
        """Return the latest batches that have ended, the newest first.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        ids = [id_.decode() for id_ in await self.connection.execute("LRANGE", f"{self._prefix}recent", 0, -1)]
        found = await self.connection.execute("MGET", *(f"{self._prefix}ended:{id_}" for id_ in ids)) if ids else []
        return [LMBatch.decode(each) for each in found if each is not None]

    async def find(self, batch: str) -> LMBatch | None:
        """Return a batch by its id; None if there is none, or its record has expired."""
        encoded = await self.connection.execute("HGET", f"{self._prefix}batches", batch)
        encoded = encoded or await self.connection.execute("GET", f"{self._prefix}ended:{batch}")
        return None if encoded is None else LMBatch.decode(encoded)

    async def request_cancel(self, batch: str) -> bool:
        """Have the collector cancel a batch; return False if there is no such open batch."""
        wanted = f"{self._prefix}cancelled"
        if await self.connection.execute("HEXISTS", f"{self._prefix}batches", batch) == 0:
            return False
        await self.connection.execute("SADD", wanted, batch)
        await self.connection.execute("EXPIRE", wanted, ENDED_KEPT_S)
        return True

    async def find_cancelled(self) -> set[str]:
        """Return the ids of the batches that somebody wants to be cancelled."""
        return {id_.decode() for id_ in await self.connection.execute("SMEMBERS", f"{self._prefix}cancelled")}

    async def _run(self, name: str, *args: Any) -> Any:
        script = self._scripts.get(name)
        if script is None:
            libraries = {"claim_take": self._claim_take}
            script = self._scripts[name] = Script(source("snakepit_bridge.lm_batches.lua", name, **libraries))
        return await self.connection.execute_script(script, [self._prefix], args)


def _now_ms() -> int:
    return round(time.time() * 1000)
