"""The controller: looks at every rollout of the fleet, and takes the step that its policy and its counts call for.

Any number of processes may run it; a lease has one of them do the work. It decides on what is stored alone, and stores
each step by compare-and-set, so a controller that is killed, paused or doubled skips no stage and repeats none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextvars import Context

from cachetools import LRUCache

from snakepit_bridge.exceptions import BridgeError, RolloutMovedError, RolloutPolicyError
from snakepit_bridge.process.aio import OutageLog, cancel_tasks, every
from snakepit_bridge.redis.lease import Lease
from snakepit_bridge.releases import steps
from snakepit_bridge.releases.counts import StageCounts, StageCountsReader
from snakepit_bridge.releases.decisions import decide_now, read_policy
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.look_history import LookHistory
from snakepit_bridge.releases.stage_time import measure_stage
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.releases.targets import RolloutTarget, TargetState
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.guard_reports import GuardReport
from snakepit_bridge.rollouts.records import RolloutState

INTERVAL_S = 0.5
"""Seconds between two looks at the rollouts."""

_ELECTION_INTERVAL_S = 1.0
# Deciding on many rollouts takes CPU time from the process's predictions: at most this part of it.
_MAX_BUSY_SHARE = 0.1
_MAX_CONCURRENT = 8
_MAX_TARGETS = 10_000

_log = logging.getLogger(__name__)


class RolloutController:
    """Moves rollouts on while it holds the lease. Lives on the home loop.

    Args:
        index: where the rollouts are.
        open_target: returns a target by its name.
        counts: reads what was counted of stages.
        lease: held by the controller that works; None if there is no other one.
        history: keeps what guards said, for people; None if nobody wants to know.
    """

    def __init__(
        self,
        index: RolloutIndex,
        open_target: Callable[[TargetName], RolloutTarget],
        counts: StageCountsReader,
        lease: Lease | None = None,
        history: LookHistory | None = None,
    ) -> None:
        self._index = index
        self._open_target = open_target
        self._counts = counts
        self._lease = lease
        self._history = history
        self._leads = False
        self._next_election = float("-inf")
        self._next_look = float("-inf")
        self._busy_s = 0.0
        self._targets: LRUCache[str, tuple[RolloutTarget, OutageLog]] = LRUCache(_MAX_TARGETS)
        self._limit = asyncio.Semaphore(_MAX_CONCURRENT)
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start working on the running loop, unless it works already."""
        if self._running is None or self._running.done():
            outage = OutageLog(_log, "Can't look after rollouts")
            self._running = asyncio.get_running_loop().create_task(
                every(INTERVAL_S, self._work, outage), context=Context()
            )

    async def aclose(self) -> None:
        """Stop, and let another process take over at once."""
        await cancel_tasks(self._running)
        if self._lease is not None and self._leads:
            self._leads = False
            await self._lease.release()

    async def _work(self) -> bool:
        """Look at all rollouts if this process holds the lease; return whether it does."""
        if self._lease is not None:
            now = time.monotonic()
            if not self._leads and now < self._next_election:
                return False
            self._next_election = now + _ELECTION_INTERVAL_S
            self._leads = await self._lease.acquire()
            if not self._leads:
                return False
        if time.monotonic() >= self._next_look:
            self._busy_s = 0.0
            await self.look()
            self._next_look = time.monotonic() + self._busy_s * (1 / _MAX_BUSY_SHARE - 1)
        return True

    async def look(self) -> None:
        """Look at all rollouts once, and take the steps that are due.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await asyncio.gather(*(self._control(target) for target in await self._index.list()))

    async def _control(self, target: str) -> None:
        async with self._limit:
            known = self._targets.get(target) or await self._open(target)
            if known is not None:
                with known[1].survive():
                    await self._take_step(target, known[0])

    async def _open(self, target: str) -> tuple[RolloutTarget, OutageLog] | None:
        """Return a target, opened; None for what can't be the name of one, which is removed from the index."""
        try:
            name = TargetName.parse(target)
        except (BridgeError, ValueError) as exc:
            _log.warning("The index of rollouts has an entry that is no target, and loses it: %s", exc)
            await self._index.discard(target)
            return None
        outage = OutageLog(_log, f"Can't look after the rollout of {target}", expected=BridgeError)
        known = self._targets[target] = self._open_target(name), outage
        return known

    async def _take_step(self, name: str, target: RolloutTarget) -> None:
        state = await self._load_open(name, target)
        if state is None:
            return
        event, evidence = await self._plan(state)
        if event is not None:
            try:
                await target.step(state.record, event)
            except RolloutMovedError:
                return  # somebody else was quicker; the next look decides on what there is then
            level = logging.WARNING if event.kind == "rolled_back" else logging.INFO
            _log.log(level, "Rollout of %s: %s: %s", name, event.kind, event.reason)
        if evidence and self._history is not None:
            await self._history.add(state.record, state.now_s, evidence, is_decisive=event is not None)

    async def _load_open(self, name: str, target: RolloutTarget) -> TargetState | None:
        """Return how a target stands; one without an open rollout is removed from the index."""
        state = await target.load()
        if state is not None and state.record.is_open:
            return state
        await self._index.discard(name)
        # A rollout that began in between was added before it was removed.
        state = await target.load()
        if state is None or not state.record.is_open:
            self._targets.pop(name, None)
            return None
        await self._index.add(name)
        return state

    async def _plan(self, state: TargetState) -> tuple[RolloutEvent | None, Sequence[GuardReport]]:
        """Return the step that is due, or None if none is, and what the guards say."""
        record, now_s = state.record, state.now_s
        try:
            policy = read_policy(state)
        except RolloutPolicyError as exc:
            if record.state is RolloutState.PAUSED and not record.share:
                return None, ()
            return steps.suspend(record, now_s, author=steps.CONTROLLER, reason=str(exc)), ()
        passed = measure_stage(record, state.events, now_s)
        counts = StageCounts()
        if record.stage:
            counts = await self._counts.read(record.id, record.stage, passed.since_s, now_s)
        began = time.perf_counter()
        decision = decide_now(state, policy, counts, passed)
        self._busy_s += time.perf_counter() - began
        return steps.carry_out(decision, record, now_s), decision.evidence
