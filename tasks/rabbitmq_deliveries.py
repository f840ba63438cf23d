"""Count in Redis how often a worker crashed with a message, for RabbitMQ, which doesn't count.

RabbitMQ only flags a redelivery, after a lost connection as well as after a crash. (Its quorum queues count, but have
no priorities, and count requeued messages too.) So each run of a message is recorded before it begins and removed once
it has ended. A record left by a process without a heartbeat is a crash. A record of a live process is a run in
progress: its message was redelivered after a connection was lost, and waits until that run has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from contextvars import Context
from uuid import uuid4

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.process.aio import OutageLog, every
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import retry_through_outages
from tasks.quarantine import Quarantine

# A process counts as dead after a lease without a heartbeat.
_HEARTBEATS_PER_LEASE = 4
_POLL_INTERVAL_S = 0.2

_log = logging.getLogger(__name__)


class CrashCounter:
    """Records the runs of one process, and finds earlier runs that crashed. Lives on the home loop.

    Args:
        connection: the Redis of the results.
        namespace: prefix of the keys.
        lease_s: seconds without a heartbeat after which a process counts as dead.
        max_deliveries: number of crashes after which a message is dead-lettered.
        keep_s: seconds for which records are kept.
        suspects: the quarantine of this process.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        namespace: str,
        lease_s: float,
        max_deliveries: int,
        keep_s: int,
        suspects: Quarantine,
    ) -> None:
        self._connection = connection
        self._base = FleetKeys(namespace).deliveries
        self._lease_s = lease_s
        self._max_deliveries = max_deliveries
        self._keep_s = keep_s
        self._suspects = suspects
        self._process = uuid4().hex[:12]
        self._running: Counter[str] = Counter()
        self._heartbeat: asyncio.Task[None] | None = None
        self._outage = OutageLog(_log, "Can't record that this process lives")

    async def begin(self, task_id: str, *, first: bool) -> int:
        """Record that a run begins; return 0, or the number of crashes if there were too many for it to begin.

        A suspect waits here, without a record, until the quarantine has a slot.

        Args:
            task_id: the task id of the message.
            first: whether this is the first delivery.

        Raises:
            StoreUnavailableError: the outage of Redis outlasted the retries.
        """
        if self._heartbeat is None or self._heartbeat.done():
            # In a context of its own: it outlives the prediction that starts it.
            self._heartbeat = asyncio.get_running_loop().create_task(
                every(self._lease_s / _HEARTBEATS_PER_LEASE, self._send_heartbeat, self._outage, at_once=False),
                context=Context(),
            )
            await retry_through_outages(self._send_heartbeat)
        crashes = 0 if first else await self._count_deaths(task_id)
        if crashes >= self._max_deliveries:
            await retry_through_outages(lambda: self._forget_runs(task_id))
            return crashes
        await self._suspects.acquire(task_id, crashes + 1)
        self._running.update([task_id])
        try:
            await retry_through_outages(lambda: self._record_run(task_id))
        except StoreUnavailableError:
            await self.end(task_id)
            raise
        return 0

    async def end(self, task_id: str) -> None:
        """Remove the record of a run, retrying through outages."""
        self._suspects.release(task_id)
        self._running.subtract([task_id])
        if self._running[task_id] > 0:
            return
        del self._running[task_id]
        with suppress(StoreUnavailableError):
            await retry_through_outages(
                lambda: self._connection.execute("HDEL", self._runs_key(task_id), self._process)
            )

    async def _count_deaths(self, task_id: str) -> int:
        """Return how many runs crashed, once no earlier run is in progress."""
        while True:
            runs, in_progress = await retry_through_outages(lambda: self._find_other_runs(task_id))
            if not in_progress and not self._running[task_id]:
                return runs
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def _find_other_runs(self, task_id: str) -> tuple[int, bool]:
        """Return how many unfinished runs other processes recorded, and whether one is in progress."""
        processes = [name.decode() for name in await self._connection.execute("HKEYS", self._runs_key(task_id))]
        others = [process for process in processes if process != self._process]
        alive = await asyncio.gather(
            *(self._connection.execute("EXISTS", self._heartbeat_key(process)) for process in others)
        )
        return len(others), any(alive)

    async def _record_run(self, task_id: str) -> None:
        key = self._runs_key(task_id)
        await asyncio.gather(
            self._connection.execute("HSET", key, self._process, 1),
            self._connection.execute("EXPIRE", key, self._keep_s),
        )

    async def _forget_runs(self, task_id: str) -> None:
        await self._connection.execute("DEL", self._runs_key(task_id))

    async def _send_heartbeat(self) -> None:
        lease_ms = round(self._lease_s * 1000)
        await self._connection.execute("SET", self._heartbeat_key(self._process), 1, "PX", lease_ms)

    def _runs_key(self, task_id: str) -> str:
        return f"{self._base}:runs:{task_id}"

    def _heartbeat_key(self, process: str) -> str:
        return f"{self._base}:alive:{process}"
