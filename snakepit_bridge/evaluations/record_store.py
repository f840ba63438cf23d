"""The records of evaluations in Redis, each with the results of its examples, until they expire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from snakepit_bridge.evaluations.records import (
    EvaluationRecord,
    ExampleResult,
    decode_results,
    encode_results,
)
from snakepit_bridge.exceptions import EvaluationNotFoundError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.variables.codec import encode_json, parse

KEEP_S = 90 * 86_400
"""Seconds for which a record is kept, unless the client says otherwise."""

MAX_KEEP_S = 400 * 86_400
"""The longest time for which a record can be kept; the index forgets older ones."""

_RECORD, _EXAMPLES = "record", "examples"
_MIN_PREFIX, _FULL_ID = 6, 32


class EvaluationStore:
    """The evaluations of one fleet. A record never changes: equal evaluations have equal ids.

    Args:
        connection: to the fleet's Redis.
        keys: the fleet's.
    """

    def __init__(self, connection: RedisConnection, keys: FleetKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def put(self, record: EvaluationRecord, results: Sequence[ExampleResult], *, keep_s: int = KEEP_S) -> None:
        """Store an evaluation that has ended.

        Args:
            record: how it came out.
            results: of its examples.
            keep_s: seconds for which it is kept.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        key, now_s = self._keys.evaluation(record.id), time.time()
        fields = (_RECORD, encode_json(record.encode()), _EXAMPLES, encode_results(results))
        # The index comes first: a name without a record is skipped, a record without a name would not be listed.
        index = self._keys.evaluations
        await self._connection.send_each(
            [("ZADD", index, now_s, record.id), ("ZREMRANGEBYSCORE", index, "-inf", now_s - MAX_KEEP_S)]
        )
        await self._connection.send_each([("HSET", key, *fields), ("EXPIRE", key, keep_s)])

    async def find(self, evaluation: str) -> EvaluationRecord | None:
        """Return the record with this id; None if there is none.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        stored = await self._connection.execute_read("HGET", self._keys.evaluation(evaluation), _RECORD)
        return None if stored is None else EvaluationRecord.decode(parse(stored))

    async def get(self, evaluation: str) -> EvaluationRecord:
        """Return a record by its id, or by the first six characters of it or more.

        Raises:
            EvaluationNotFoundError: there is none, or several begin like this.
            StoreUnavailableError: Redis is away.
        """
        record = await self.find(await self._complete(evaluation))
        if record is None:
            raise EvaluationNotFoundError(evaluation)
        return record

    async def results(self, evaluation: str) -> list[ExampleResult]:
        """Return the results of an evaluation's examples, in the order of the dataset.

        Raises:
            EvaluationNotFoundError: there is no such record.
            StoreUnavailableError: Redis is away.
        """
        full = await self._complete(evaluation)
        stored = await self._connection.execute_read("HGET", self._keys.evaluation(full), _EXAMPLES)
        if stored is None:
            raise EvaluationNotFoundError(evaluation)
        return decode_results(stored)

    async def list(self, *, limit: int = 100) -> list[EvaluationRecord]:
        """Return the newest records, newest first.

        Args:
            limit: how many at most.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        names = await self._read_names()
        found: list[EvaluationRecord] = []
        # The index has the names of records that have expired too.
        while names and len(found) < limit:
            page, names = names[:limit], names[limit:]
            records = await asyncio.gather(*map(self.find, page))
            found += [record for record in records if record is not None]
        return found[:limit]

    async def _complete(self, evaluation: str) -> str:
        if len(evaluation) >= _FULL_ID:
            return evaluation
        if len(evaluation) < _MIN_PREFIX:
            raise EvaluationNotFoundError(evaluation, f"give at least {_MIN_PREFIX} characters of its id")
        names = [name for name in await self._read_names() if name.startswith(evaluation)]
        if len(names) > 1:
            raise EvaluationNotFoundError(evaluation, f"{len(names)} ids begin like this; give more of it")
        return names[0] if names else evaluation

    async def _read_names(self) -> list[str]:
        names = await self._connection.execute_read("ZREVRANGE", self._keys.evaluations, 0, -1)
        return [name.decode() for name in names]
