"""The records of jobs in Redis, until they expire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from snakepit_bridge.evaluations.jobs import Job, JobEnd, JobKind
from snakepit_bridge.exceptions import JobNotFoundError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.variables.codec import encode_json, parse

KEEP_S = 90 * 86_400
"""Seconds for which the record of a job is kept."""

_JOB, _STARTED, _PROGRESS, _END = "job", "started", "progress", "end"


class JobStore:
    """The jobs of one fleet. What a job was given never changes, and it ends once: the first end counts.

    Args:
        connection: to the fleet's Redis.
        keys: the fleet's.
    """

    def __init__(self, connection: RedisConnection, keys: FleetKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def put(self, job: Job) -> None:
        """Store a job that is about to be sent.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        key, index, now_s = self._keys.job(job.id), self._keys.jobs, time.time()
        # The index comes first: a name without a record is skipped, a record without a name would not be listed.
        await self._connection.send_each(
            [("ZADD", index, "NX", job.created_at, job.id), ("ZREMRANGEBYSCORE", index, "-inf", now_s - KEEP_S)]
        )
        await self._connection.send_each([("HSETNX", key, _JOB, encode_json(job.encode())), ("EXPIRE", key, KEEP_S)])

    async def begin(self, job: str) -> float:
        """Note that a worker has taken a job, and return when one did first, in Unix seconds.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        key = self._keys.job(job)
        await self._connection.execute("HSETNX", key, _STARTED, time.time())
        return float(await self._connection.execute("HGET", key, _STARTED))

    async def report(self, job: str, progress: Mapping[str, Any]) -> None:
        """Store how far a job has come.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.execute("HSET", self._keys.job(job), _PROGRESS, encode_json(progress))

    async def end(self, job: str, end: JobEnd) -> None:
        """Store how a job has ended, unless it has ended before.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        key = self._keys.job(job)
        await self._connection.send_each([("HSETNX", key, _END, encode_json(asdict(end))), ("EXPIRE", key, KEEP_S)])

    async def find(self, job: str) -> Job | None:
        """Return the job with this id; None if there is none.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        names = (_JOB, _STARTED, _PROGRESS, _END)
        fixed, started, progress, end = await self._connection.execute_read("HMGET", self._keys.job(job), *names)
        if fixed is None:
            return None
        return Job.decode(
            parse(fixed),
            started_at=None if started is None else float(started),
            progress={} if progress is None else parse(progress),
            end=None if end is None else parse(end),
        )

    async def get(self, job: str) -> Job:
        """Return a job by its id.

        Raises:
            JobNotFoundError: there is none.
            StoreUnavailableError: Redis is away.
        """
        found = await self.find(job)
        if found is None:
            raise JobNotFoundError(job)
        return found

    async def list(self, *, kind: JobKind | None = None, limit: int = 100) -> list[Job]:
        """Return the newest jobs, newest first.

        Args:
            kind: of these alone; None for all.
            limit: how many at most.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        stored = await self._connection.execute_read("ZREVRANGE", self._keys.jobs, 0, -1)
        names, found = [name.decode() for name in stored], list[Job]()
        while names and len(found) < limit:
            page, names = names[:limit], names[limit:]
            jobs = await asyncio.gather(*map(self.find, page))
            found += [job for job in jobs if job is not None and kind in (None, job.kind)]
        return found[:limit]
