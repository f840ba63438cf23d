"""The records of evaluations in Redis, each with the results of its examples, until they expire."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

from snakepit_bridge.evaluations.records import (
    EvaluationRecord,
    ExampleResult,
    decode_results,
    encode_results,
)
from snakepit_bridge.exceptions import EvaluationNotFoundError
from snakepit_bridge.protocol.page_token import match_page_token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.variables.codec import encode_json, parse

KEEP_S = 90 * 86_400
"""Seconds for which a record is kept, unless the client says otherwise."""

MAX_KEEP_S = 400 * 86_400
"""The longest time for which a record can be kept; the index forgets older ones."""

_RECORD, _EXAMPLES = "record", "examples"
_MIN_PREFIX, _FULL_ID = 6, 32

MAX_SEARCHED = 2_000
"""The most records that are looked at for one page."""

PLACE_PATTERN = r"([0-9]{1,20}(?:\.[0-9]{1,20})?):([0-9a-f]{1,64})"
"""What tokens of pages look like."""

_PLACE = re.compile(PLACE_PATTERN)
_MAX_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class EvaluationPlace:
    """The place of an evaluation among all of them, newest first.

    Attributes:
        ended_at: when it ended, in Unix seconds.
        id: its id.
    """

    ended_at: float
    id: str

    @classmethod
    def parse(cls, token: str) -> Self | None:
        """Return the place of a token; None if it is empty, which is that of the first page.

        Raises:
            ValueError: the token can't be one.
        """
        match = match_page_token(_PLACE, token)
        return None if match is None else cls(float(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.ended_at!r}:{self.id}"

    def precedes(self, other: Self) -> bool:
        """Check whether this evaluation comes before another one."""
        return (self.ended_at, self.id) > (other.ended_at, other.id)


@dataclass(frozen=True, slots=True)
class EvaluationPage:
    """A page of records.

    Attributes:
        records: newest first.
        next_token: of the next page; empty for none.
    """

    records: Sequence[EvaluationRecord]
    next_token: str


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

    async def list(self, *, limit: int = 100, program: str = "") -> list[EvaluationRecord]:
        """Return the newest records, newest first.

        Args:
            limit: how many at most.
            program: only those of the program of this name; empty for any.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        page = await self.read_page(size=min(limit, _MAX_PAGE), program=program)
        found = list(page.records)
        while page.next_token and len(found) < limit:
            after = EvaluationPlace.parse(page.next_token)
            page = await self.read_page(size=min(limit - len(found), _MAX_PAGE), program=program, after=after)
            found += page.records
        return found

    async def read_page(self, *, size: int, program: str = "", after: EvaluationPlace | None = None) -> EvaluationPage:
        """Return a page of records, newest first.

        Args:
            size: how many at most.
            program: only those of the program of this name; empty for any.
            after: where the page before it ended; None for the first.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        found, searched = list[tuple[EvaluationPlace, EvaluationRecord]](), 0
        async with aclosing(self._read_back(after, size + 1)) as places:
            async for chunk in places:
                records = await asyncio.gather(*(self.find(place.id) for place in chunk))
                # The index has the names of records that have expired too.
                found += [
                    (place, record)
                    for place, record in zip(chunk, records, strict=True)
                    if record is not None and program in ("", record.subject.program)
                ]
                searched += len(chunk)
                if len(found) > size:
                    return EvaluationPage([record for _, record in found[:size]], str(found[size - 1][0]))
                if searched >= MAX_SEARCHED:
                    return EvaluationPage([record for _, record in found], str(chunk[-1]))
        return EvaluationPage([record for _, record in found], "")

    async def _read_back(self, after: EvaluationPlace | None, size: int) -> AsyncGenerator[list[EvaluationPlace]]:
        """Yield the places of evaluations in lists, newest first, from a place on."""
        newest, last, start = "+inf" if after is None else repr(after.ended_at), after, 0
        while True:
            span = ("BYSCORE", "REV", "LIMIT", start, size, "WITHSCORES")
            entries = await self._connection.execute_read("ZRANGE", self._keys.evaluations, newest, "-inf", *span)
            places = [EvaluationPlace(at, name.decode()) for name, at in entries]
            behind = [place for place in places if last is None or last.precedes(place)]
            if behind:
                yield behind
                last = behind[-1]
            if len(places) < size:
                return
            start += size

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
        names = await self._connection.execute_read("ZRANGE", self._keys.evaluations, 0, -1)
        return [name.decode() for name in names]
