"""Presence: one process's part in the limits. It renews what it holds, hears of pauses, moves when it leads."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from snakepit_bridge.exceptions import BridgeError, SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.process.home_loop import share
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.notifications import Signals
from tasks.outage_log import OutageLog
from tasks.rate_limits.rules import FLEET_SESSION, Bucket, Rules
from tasks.rate_limits.scheduler import ParkedTaskScheduler
from tasks.rate_limits.store import Costs, LimitStore

# Leases are renewed, and what hints might have missed is looked at, this often.
_BEAT_S = 1.0
_LOOK_EVERY_S = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Unsettled:
    permit: str
    real: Costs
    requests: int


class LimitLeases:
    """What one process holds and knows of the limits. Lives on the home loop.

    Args:
        store: the limits in Redis.
        rules: which of them concern a call.
        replica: where the variables that steer them are read.
        cancels: where cancellations are told.
    """

    def __init__(self, store: LimitStore, rules: Rules, replica: Replica, cancels: Signals) -> None:
        self.store = store
        self._rules = rules
        self._replica = replica
        self._fleet: Snapshot | None = None
        self._begun = False
        self._beginning: asyncio.Task[None] | None = None
        self._process = f"{os.getpid()}-{uuid4().hex[:8]}"
        self._held: set[str] = set()
        self._turns: dict[str, asyncio.Event] = {}
        self._paused: dict[str, float] = {}
        self._unsettled: list[_Unsettled] = []
        self._mover = ParkedTaskScheduler(store, self._buckets_of)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._aside: set[asyncio.Task[Any]] = set()
        self._cancels = cancels
        self._unread = OutageLog(_log, "Can't read the fleet's limits; those that were read last hold on")
        self._unrenewed = OutageLog(_log, "Can't renew what the limits granted")
        self._signals = Signals(store.connection)
        self._signals.on(store.hints, self._heard_pause, lambda: None)
        self._signals.on(self.ready, self._heard_ready, self._missed_ready)
        self._signals.on(store.wakes, self._heard_wake, lambda: None)
        cancels.on(f"{store.namespace}:cancel", self._heard_cancel, lambda: None)

    async def begin(self) -> None:
        """Takes part from now on, unless it does so already, and has read the fleet's own variables.

        Raises:
            StoreUnavailableError: the store is away.
        """
        if self._begun:
            return
        # Those who come together share one read, and each gets its failure.
        if self._beginning is None or self._beginning.done():
            self._beginning = asyncio.get_running_loop().create_task(self._begin())
        await share(self._beginning)

    async def _begin(self) -> None:
        self._run("beat", self._beat_on)
        self._run("look", self._look_on)
        self._signals.start()
        self._cancels.start()
        self._fleet = await self._looked_up(FLEET_SESSION)
        self._begun = True

    async def aclose(self) -> None:
        """Stops taking part."""
        await self._signals.aclose()
        tasks = [*self._running.values(), *self._aside]
        self._running.clear()
        self._begun = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ limits

    def concerning(self, profile: str, session: str, snapshot: Snapshot) -> Sequence[Bucket] | None:
        """Returns the buckets of a call; None if nothing at all concerns it, so that Redis needn't be asked."""
        buckets = self._rules.concerning(profile, self._of_fleet(), self._replica.peek(session) or snapshot)
        return buckets if buckets or self._is_paused(profile) else None

    def pause_here(self, profile: str, seconds: float) -> None:
        """Has calls to a profile ask Redis for so long, which knows when the pause really ends."""
        self._paused[profile] = max(self._paused.get(profile, 0.0), time.monotonic() + seconds)

    def _of_fleet(self) -> Snapshot | None:
        return self._replica.peek(FLEET_SESSION) or self._fleet

    def _is_paused(self, profile: str) -> bool:
        until = self._paused.get(profile)
        if until is not None and until <= time.monotonic():
            del self._paused[profile]
        return profile in self._paused

    async def _buckets_of(self, profile: str, session: str) -> Sequence[Bucket]:
        """The same for a parked task, of whose session this process may never have heard."""
        snapshot = self._replica.peek(session) or await self._looked_up(session)
        return self._rules.concerning(profile, self._of_fleet(), snapshot)

    async def _looked_up(self, session: str) -> Snapshot | None:
        try:
            return await self._replica.snapshot(session)
        except SessionNotFoundError:
            return None

    # ------------------------------------------------------------ turns

    @property
    def ready(self) -> str:
        """The channel on which this process is told whose turn it is."""
        return self.store.ready(self._process)

    @contextmanager
    def turn(self, task: str) -> Generator[asyncio.Event]:
        """Keeps a task's place in its lane while it waits here, and tells when it may be its turn."""
        event = self._turns[task] = asyncio.Event()
        try:
            yield event
        finally:
            del self._turns[task]

    # ------------------------------------------------------------ permits

    def hold(self, permit: str) -> None:
        """Renews a permit from now on."""
        self._held.add(permit)

    async def end(self, permit: str, real: Costs, *, requests: int) -> None:
        """Ends a permit, now or as soon as Redis is back: a call that had its answer must not fail for this."""
        if not permit:
            return
        self._held.discard(permit)
        try:
            await self.store.settle(permit, real, requests=requests)
        except StoreUnavailableError as away:
            _log.warning("A call is settled later: %s", away)
            self._unsettled.append(_Unsettled(permit, real, requests))

    def apart(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does what a cancelled caller can't wait for."""
        task = asyncio.get_running_loop().create_task(_told(work))
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    # ------------------------------------------------------------ taking part

    def _run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._running.get(name)
        if task is None or task.done():
            self._running[name] = asyncio.get_running_loop().create_task(work())

    async def _look_on(self) -> None:
        """Keeps the fleet's variables in the replica, and notices when somebody first publishes them."""
        while True:
            try:
                self._fleet = await self._looked_up(FLEET_SESSION)
                self._unread.over()
            except BridgeError as away:
                self._unread.begun(away)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _beat_on(self) -> None:
        while True:
            try:
                await self._beat()
                self._unrenewed.over()
            except StoreUnavailableError as away:
                self._unrenewed.begun(away)
            except Exception:  # noqa: BLE001 (a beat that fails must not end all that come after it)
                _log.exception("A beat of the limits failed; it is tried again")
            await asyncio.sleep(_BEAT_S)

    async def _beat(self) -> None:
        beat = await self.store.beat(self._process, self._held, self._turns)
        for profile, seconds in beat.pauses.items():
            self.pause_here(profile, seconds)
        self._lead(beat.leads)
        while self._unsettled:
            one = self._unsettled[0]
            await self.store.settle(one.permit, one.real, requests=one.requests)
            del self._unsettled[0]

    def _lead(self, leads: bool) -> None:
        if leads:
            self._run("mover", self._mover.run)
        elif "mover" in self._running:
            self._running.pop("mover").cancel()

    def _heard_pause(self, said: str) -> None:
        milliseconds, _, profile = said.partition(" ")
        self.pause_here(profile, float(milliseconds) / 1000)

    def _heard_ready(self, task: str) -> None:
        if task in self._turns:
            self._turns[task].set()

    def _missed_ready(self) -> None:
        for turn in self._turns.values():
            turn.set()

    def _heard_wake(self, profile: str) -> None:
        self._mover.wake(profile)

    def _heard_cancel(self, task: str) -> None:
        # Its end is committed already. What comes back into the queue is found to have ended, and goes.
        if "mover" in self._running:
            self.apart(self.store.let_go(task))


async def _told(work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except StoreUnavailableError as away:
        _log.warning("The limits couldn't be told of a call's end; its lease ends by itself: %s", away)
