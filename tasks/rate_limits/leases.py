"""The rate-limit permits of one process: renew their leases, follow pauses, and schedule parked tasks while leading."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from snakepit_bridge.exceptions import BridgeError, SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.process.aio import BackgroundTasks, OutageLog, cancel_tasks, every
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.protocol.messages import cancel_channel
from snakepit_bridge.redis.pubsub import Subscription, text_handler
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.rate_limits.rules import FLEET_SESSION, Bucket, Rules
from tasks.rate_limits.scheduler import ParkedTaskScheduler
from tasks.rate_limits.store import Costs, LimitStore

# Interval at which leases are renewed, and pauses polled in case their notification was lost.
_HEARTBEAT_S = 1.0
_POLL_INTERVAL_S = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Unsettled:
    permit: str
    real: Costs
    requests: int


class LimitLeases:
    """The state of one process in the rate limits. Lives on the home loop.

    Args:
        store: the limits in Redis.
        rules: the limits of profiles and sessions.
        replica: the snapshots whose variables set limits.
        cancels: the subscription that cancellations arrive on.
    """

    def __init__(self, store: LimitStore, rules: Rules, replica: Replica, cancels: Subscription) -> None:
        self.store = store
        self._rules = rules
        self._replica = replica
        self._fleet: Snapshot | None = None
        self._has_begun = False
        self._begin_task: asyncio.Task[None] | None = None
        self._process = f"{os.getpid()}-{uuid4().hex[:8]}"
        self._held: set[str] = set()
        self._waiters: dict[str, asyncio.Event] = {}
        self._paused: dict[str, float] = {}
        self._unsettled: list[_Unsettled] = []
        self._scheduler = ParkedTaskScheduler(store, self._find_buckets)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._spawned = BackgroundTasks()
        self._cancels = cancels
        self._read_outage = OutageLog(
            _log, "Can't read the fleet's limits; the last known ones apply", expected=BridgeError
        )
        self._renewal_outage = OutageLog(_log, "Can't renew rate-limit permits")
        self._signals = Subscription(
            store.connection,
            recheck=False,
            outage=OutageLog(_log, "Free rate-limit permits are found by polling alone"),
        )
        self._signals.register(store.pause_channel, text_handler(self._on_pause))
        self._signals.register(self.ready_channel, text_handler(self._on_ready, self._wake_all))
        self._signals.register(store.wake_channel, text_handler(self._on_wake))
        cancels.register(cancel_channel(store.namespace), text_handler(self._on_cancel))

    async def begin(self) -> None:
        """Start taking part, unless it does so already, and read the fleet's variables.

        Raises:
            StoreUnavailableError: the store is unavailable.
        """
        if self._has_begun:
            return
        # Concurrent callers share one read and its failure.
        if self._begin_task is None or self._begin_task.done():
            self._begin_task = asyncio.get_running_loop().create_task(self._begin())
        await share_future(self._begin_task)

    async def _begin(self) -> None:
        self._ensure_running("beat", self._send_heartbeats)
        self._ensure_running("look", self._poll_fleet)
        self._signals.start()
        self._cancels.start()
        await self._read_fleet()
        self._has_begun = True

    async def aclose(self) -> None:
        """Stop taking part."""
        await self._signals.aclose()
        tasks = list(self._running.values())
        self._running.clear()
        self._has_begun = False
        await cancel_tasks(*tasks)
        await self._spawned.cancel()

    # ------------------------------------------------------------ limits

    def buckets_for(self, profile: str, session: str, snapshot: Snapshot) -> Sequence[Bucket] | None:
        """Return the buckets of a call; None if no limit or pause applies, so that Redis isn't needed."""
        buckets = self._rules.buckets_for(profile, self._fleet_snapshot(), self._replica.peek(session) or snapshot)
        return buckets if buckets or self._is_paused(profile) else None

    def pause_here(self, profile: str, seconds: float) -> None:
        """Make calls to a profile check with Redis for ``seconds``; Redis knows when the pause really ends."""
        self._paused[profile] = max(self._paused.get(profile, 0.0), time.monotonic() + seconds)

    def _fleet_snapshot(self) -> Snapshot | None:
        return self._replica.peek(FLEET_SESSION) or self._fleet

    def _is_paused(self, profile: str) -> bool:
        until = self._paused.get(profile)
        if until is not None and until <= time.monotonic():
            del self._paused[profile]
        return profile in self._paused

    async def _find_buckets(self, profile: str, session: str) -> Sequence[Bucket]:
        """Return the buckets of a parked task, whose session may be unknown to this process."""
        snapshot = self._replica.peek(session) or await self._fetch_snapshot(session)
        return self._rules.buckets_for(profile, self._fleet_snapshot(), snapshot)

    async def _fetch_snapshot(self, session: str) -> Snapshot | None:
        try:
            return await self._replica.snapshot(session)
        except SessionNotFoundError:
            return None

    # ------------------------------------------------------------ waiting

    @property
    def ready_channel(self) -> str:
        """The channel that notifies this process of waiting tasks whose turn it is."""
        return self.store.ready_channel(self._process)

    @contextmanager
    def waiter(self, task: str) -> Generator[asyncio.Event]:
        """Keep a task's place in its queue while the block runs; yield the event of its turn."""
        event = self._waiters[task] = asyncio.Event()
        try:
            yield event
        finally:
            del self._waiters[task]

    # ------------------------------------------------------------ permits

    def hold(self, permit: str) -> None:
        """Renew a permit from now on, until ``end``."""
        self._held.add(permit)

    async def end(self, permit: str, real: Costs, *, requests: int) -> None:
        """Settle a permit, now or as soon as Redis is back: a call that was answered must not fail for this."""
        if not permit:
            return
        self._held.discard(permit)
        try:
            await self.store.settle(permit, real, requests=requests)
        except StoreUnavailableError as exc:
            _log.warning("Can't settle a call yet; retrying with the next heartbeat: %s", exc)
            self._unsettled.append(_Unsettled(permit, real, requests))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run in the background what a cancelled caller can't await."""
        self._spawned.spawn(_run_detached(work))

    # ------------------------------------------------------------ taking part

    def _ensure_running(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._running.get(name)
        if task is None or task.done():
            # In a context of its own: it outlives the prediction that starts it.
            self._running[name] = asyncio.get_running_loop().create_task(work(), context=Context())

    async def _poll_fleet(self) -> None:
        """Keep the fleet's variables in the replica, and notice when they are first published."""
        await every(_POLL_INTERVAL_S, self._read_fleet, self._read_outage)

    async def _read_fleet(self) -> None:
        self._fleet = await self._fetch_snapshot(FLEET_SESSION)

    async def _send_heartbeats(self) -> None:
        await every(_HEARTBEAT_S, self._send_heartbeat, self._renewal_outage)

    async def _send_heartbeat(self) -> None:
        reply = await self.store.send_heartbeat(self._process, self._held, self._waiters)
        for profile, seconds in reply.pauses.items():
            self.pause_here(profile, seconds)
        self._set_leading(reply.leads)
        while self._unsettled:
            unsettled = self._unsettled[0]
            await self.store.settle(unsettled.permit, unsettled.real, requests=unsettled.requests)
            del self._unsettled[0]

    def _set_leading(self, leads: bool) -> None:
        if leads:
            self._ensure_running("mover", self._scheduler.run)
        elif "mover" in self._running:
            self._running.pop("mover").cancel()

    def _on_pause(self, message: str) -> None:
        milliseconds, _, profile = message.partition(" ")
        self.pause_here(profile, float(milliseconds) / 1000)

    def _on_ready(self, task: str) -> None:
        if task in self._waiters:
            self._waiters[task].set()

    def _wake_all(self) -> None:
        for turn in self._waiters.values():
            turn.set()

    def _on_wake(self, profile: str) -> None:
        self._scheduler.wake(profile)

    def _on_cancel(self, task: str) -> None:
        # Its result is committed already; once unparked, the task is found finished and dropped.
        if "mover" in self._running:
            self.spawn(self.store.unpark(task))


async def _run_detached(work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except StoreUnavailableError as exc:
        _log.warning("Can't update the rate limits; the lease will expire: %s", exc)
