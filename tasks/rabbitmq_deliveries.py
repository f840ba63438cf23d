"""Deliveries: how often a message went down with its worker, counted in Redis where the broker doesn't count.

RabbitMQ says of a message only that it isn't given out for the first time, which is as true after a lost connection as
after a death. (Its quorum queues count, but know no priorities, and count what was merely handed back.) So each run of
a message is noted before it begins and taken off once it has ended in whichever way. A note that is left, of a process
that gives no sign of life any more, is a death. One of a process that lives is a run that goes on: its message came
again since the broker or a connection was lost, and waits until that run has ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from uuid import uuid4

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import through_outages
from tasks.quarantine import Suspects

# A process is taken for dead after a lease without a sign of life, and gives so many in one.
_HEARTBEATS_PER_LEASE = 4
_POLL_INTERVAL_S = 0.2


class Deliveries:
    """The runs of one process, and those before them. Lives on the home loop.

    Args:
        connection: the way to the Redis of the results.
        namespace: prefix of the keys.
        lease_s: what a process that is alive shows signs of life within, see the settings.
        max_deliveries: how often a message may go down with its worker.
        keep_s: seconds that notes are kept.
        suspects: the predictions of this process that are kept apart.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        namespace: str,
        lease_s: float,
        max_deliveries: int,
        keep_s: int,
        suspects: Suspects,
    ) -> None:
        self._connection = connection
        self._base = f"{namespace}:delivery"
        self._lease_s = lease_s
        self._max_deliveries = max_deliveries
        self._keep_s = keep_s
        self._suspects = suspects
        self._process = uuid4().hex[:12]
        self._running: Counter[str] = Counter()
        self._heartbeat: asyncio.Task[None] | None = None

    async def begin(self, task_id: str, *, first: bool) -> int:
        """Note that a run of a message begins; return 0, or how many deaths are too many for it to begin.

        A message that other predictions died with waits here, without a note, until it can run apart from others.

        Args:
            task_id: the message's task.
            first: whether the broker gives it out for the first time.

        Raises:
            StoreUnavailableError: Redis stayed away.
        """
        if self._heartbeat is None or self._heartbeat.done():
            self._heartbeat = asyncio.get_running_loop().create_task(self._send_heartbeats())
            await through_outages(self._send_heartbeat)
        deaths = 0 if first else await self._count_deaths(task_id)
        if deaths >= self._max_deliveries:
            await through_outages(lambda: self._forget_runs(task_id))
            return deaths
        await self._suspects.acquire(task_id, deaths + 1)
        self._running.update([task_id])
        try:
            await through_outages(lambda: self._record_run(task_id))
        except StoreUnavailableError:
            await self.end(task_id)
            raise
        return 0

    async def end(self, task_id: str) -> None:
        """Take the note of a run off, through outages."""
        self._suspects.release(task_id)
        self._running.subtract([task_id])
        if self._running[task_id] > 0:
            return
        del self._running[task_id]
        with suppress(StoreUnavailableError):
            await through_outages(lambda: self._connection.execute("HDEL", self._runs_key(task_id), self._process))

    async def _count_deaths(self, task_id: str) -> int:
        """Return how many runs died, once none of those before goes on any more."""
        while True:
            runs, goes_on = await through_outages(lambda: self._find_other_runs(task_id))
            if not goes_on and not self._running[task_id]:
                return runs
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def _find_other_runs(self, task_id: str) -> tuple[int, bool]:
        """Return how many runs in other processes have no end, and whether one of them goes on."""
        found = [name.decode() for name in await self._connection.execute("HKEYS", self._runs_key(task_id))]
        runs = [one for one in found if one != self._process]
        alive = await asyncio.gather(*(self._connection.execute("EXISTS", self._heartbeat_key(one)) for one in runs))
        return len(runs), any(alive)

    async def _record_run(self, task_id: str) -> None:
        key = self._runs_key(task_id)
        await asyncio.gather(
            self._connection.execute("HSET", key, self._process, 1),
            self._connection.execute("EXPIRE", key, self._keep_s),
        )

    async def _forget_runs(self, task_id: str) -> None:
        await self._connection.execute("DEL", self._runs_key(task_id))

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / _HEARTBEATS_PER_LEASE)
            with suppress(StoreUnavailableError):  # the next sign is given soon
                await self._send_heartbeat()

    async def _send_heartbeat(self) -> None:
        lease_ms = round(self._lease_s * 1000)
        await self._connection.execute("SET", self._heartbeat_key(self._process), 1, "PX", lease_ms)

    def _runs_key(self, task_id: str) -> str:
        return f"{self._base}:runs:{task_id}"

    def _heartbeat_key(self, process: str) -> str:
        return f"{self._base}:alive:{process}"
