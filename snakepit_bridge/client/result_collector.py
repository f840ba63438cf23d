"""ResultCollector: the results of many predictions as they end, in any order.

One subscription announces what has ended, and what ended together is read by one pipeline. An idle collector sends
nothing to Redis. What was collected can be forgotten, so that it takes no room in Redis once it is kept elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from snakepit_bridge.client.handle import Handle
from snakepit_bridge.client.results import FORGOTTEN, Results, TaskResult
from snakepit_bridge.delivery.payloads import Payloads, is_reference
from snakepit_bridge.exceptions import DecryptionError, PayloadLostError
from snakepit_bridge.process.aio import wait_for_event
from snakepit_bridge.protocol.messages import cancel_channel
from snakepit_bridge.redis.key_names import FleetKeys, IdempotencyKey
from snakepit_bridge.redis.pubsub import Subscription, weak_handler

# What tells a worker that a task has ended, should its message be delivered again: longer than a lease of the broker.
_ENDED_KEPT_S = 120
_KEYS_PER_READ = 200


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A prediction that has ended.

    Attributes:
        task_id: the task.
        ended: how; its result is complete, also if it was stored beside its message.
        payload: the reference to its result where that was stored so.
    """

    task_id: str
    ended: TaskResult
    payload: str | None = None


@dataclass(frozen=True, slots=True)
class ForgettableTask:
    """A prediction whose result is kept elsewhere.

    Attributes:
        task_id: the task.
        key: its idempotency key, if it has one.
        payload: the reference to its result, if it was stored beside its message.
    """

    task_id: str
    key: IdempotencyKey | None = None
    payload: str | None = None


class ResultCollector:
    """Collects results. All of it runs on the process's home loop.

    Args:
        results: the fleet's results.
        payloads: the fleet's payloads.
    """

    def __init__(self, results: Results, payloads: Payloads) -> None:
        self._results = results
        self._payloads = payloads
        self._subscription = Subscription(payloads.connection, recheck=False)
        self._on_end_weakly = weak_handler(self._on_end)
        self._channels: set[str] = set()
        self._open: set[str] = set()
        self._to_read: set[str] = set()
        # Ends that are announced while predictions are sent whose ids aren't known yet.
        self._unclaimed: set[str] = set()
        self._has_gap = self._is_sending = False
        self._news = asyncio.Event()

    async def prepare(self) -> None:
        """Listen for ends; call it before predictions are submitted that :meth:`watch` is called for then.

        Raises:
            StoreUnavailableError: Redis has never answered, or refuses for good.
        """
        await self._subscribe({self._results.reply_channel, cancel_channel(self._payloads.namespace)})
        self._unclaimed.clear()
        self._has_gap, self._is_sending = False, True

    async def watch(self, handles: Sequence[Handle]) -> None:
        """Collect these predictions too. Call it right after they were submitted.

        One that another process submitted before, under the same idempotency key, may have ended already.

        Raises:
            StoreUnavailableError: Redis has never answered, or refuses for good.
        """
        own = self._results.reply_channel
        known = [handle for handle in handles if handle.reply_channel != own]
        await self._subscribe({handle.reply_channel for handle in known if handle.reply_channel})
        ids = {handle.id for handle in handles}
        self._open |= ids
        self._is_sending = False
        self._to_read |= {handle.id for handle in known} | (ids if self._has_gap else ids & self._unclaimed)
        if self._to_read:
            self._news.set()

    async def collect(self, wait_s: float) -> list[EndedTask]:
        """Return the predictions that have ended since the last call, as soon as there is one; none after ``wait_s``.

        Raises:
            StoreUnavailableError: Redis has never answered, or refuses for good.
        """
        until = time.monotonic() + wait_s
        while True:
            if found := await self._read_ended(until):
                return found
            if not await wait_for_event(self._news, max(0.0, until - time.monotonic())):
                return []

    async def forget(self, tasks: Sequence[ForgettableTask]) -> None:
        """Drop results, payloads and idempotency keys of ended predictions; their results can't be read any more.

        That they have ended is remembered for two minutes, in case one is delivered once more.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await _forget(self._results, self._payloads, tasks)

    async def aclose(self) -> None:
        """End the subscription."""
        await self._subscription.aclose()

    async def _subscribe(self, channels: set[str]) -> None:
        for channel in channels - self._channels:
            subscribing = partial(self._subscription.subscribe, channel, self._on_end_weakly)
            await self._results.retry_through_outages(subscribing)
            self._channels.add(channel)

    async def _read_ended(self, until: float) -> list[EndedTask]:
        """Return those that have ended among the announced ones; all of these stay announced if Redis is away."""
        self._news.clear()
        found: list[EndedTask] = []
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic()) + self._payloads.connection.timeout_s):
                while self._to_read:
                    found += await self._read_some()
        except TimeoutError:
            self._news.set()  # an outage lasts; the next call reads the rest
        return found

    async def _read_some(self) -> list[EndedTask]:
        ids = [task_id for task_id, _ in zip(self._to_read, range(_KEYS_PER_READ), strict=False)]
        # Before the read: one that ends meanwhile is announced once more, and read once more.
        self._to_read.difference_update(ids)
        try:
            return await self._results.retry_through_outages(partial(self._read, ids))
        except BaseException:
            self._to_read.update(ids)
            raise

    async def _read(self, ids: Sequence[str]) -> list[EndedTask]:
        commands = [("GET", self._results.key_of(task_id)) for task_id in ids]
        stored = await self._payloads.connection.send_each(commands)
        read = [self._results.parse(task_id, raw) for task_id, raw in zip(ids, stored, strict=True)]
        ended = [EndedTask(task_id, each) for task_id, each in zip(ids, read, strict=True) if each.ready]
        complete = list(await asyncio.gather(*map(self._load_payload, ended)))
        done = {each.task_id for each in complete}
        self._open -= done
        self._to_read -= done  # announced while they were read
        return complete

    async def _load_payload(self, task: EndedTask) -> EndedTask:
        result = task.ended.result
        if result is None:
            return task
        try:
            loaded = await self._payloads.load_result(result, task.task_id)
        except (PayloadLostError, DecryptionError) as exc:
            return replace(task, ended=TaskResult(task.ended.state, error=exc))
        payload = result.payload if is_reference(result.payload) else None
        return replace(task, ended=replace(task.ended, result=loaded), payload=payload)

    def _on_end(self, task_id: bytes | None) -> None:
        if task_id is None:  # messages may have been lost
            self._to_read |= self._open
            self._has_gap = True
        elif (name := task_id.decode()) in self._open:
            self._to_read.add(name)
        elif self._is_sending:
            self._unclaimed.add(name)
        if self._to_read:
            self._news.set()


async def forget_results(results: Results, payloads: Payloads, task_ids: Sequence[str]) -> None:
    """Drop the results of ended predictions that were submitted without idempotency keys, and their payloads.

    Args:
        results: the fleet's results.
        payloads: the fleet's payloads.
        task_ids: the predictions. Of several that travelled in one message give all, once all have ended: it is
            delivered again as a whole.

    Raises:
        StoreUnavailableError: Redis is away; some may be forgotten.
    """
    for start in range(0, len(task_ids), _KEYS_PER_READ):
        ids = task_ids[start : start + _KEYS_PER_READ]
        stored = await payloads.connection.send_each([("GET", results.key_of(task_id)) for task_id in ids])
        read = [results.parse(task_id, raw) for task_id, raw in zip(ids, stored, strict=True)]
        tasks = [
            ForgettableTask(task_id, payload=each.result.payload if each.result else None)
            for task_id, each in zip(ids, read, strict=True)
            if each.ready
        ]
        await _forget(results, payloads, tasks)


async def _forget(results: Results, payloads: Payloads, tasks: Sequence[ForgettableTask]) -> None:
    keys = FleetKeys(payloads.namespace)
    commands: list[Sequence[object]] = []
    for task in tasks:
        commands.append(("SET", results.key_of(task.task_id), FORGOTTEN, "XX", "EX", _ENDED_KEPT_S))
        if task.key is not None:
            commands.append(("DEL", keys.idempotency(task.key)))
        if task.payload is not None:
            commands.append(("DEL", payloads.key_of(task.payload)))
    for start in range(0, len(commands), _KEYS_PER_READ):
        await payloads.connection.send_each(commands[start : start + _KEYS_PER_READ])
