"""Release parked tasks from their sessions' queues, each with a reservation, as the limits leave room.

One process at a time does this, under a lease; a second one would only affect the order. Sessions are served by deficit
round-robin: each round adds the same quantum to every session, and a session keeps what it couldn't use because its
next task costs more. So a session that floods delays only itself. Within a session the priority decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from snakepit_bridge.process.aio import OutageLog, wait_for_event
from tasks.rate_limits.rules import Bucket
from tasks.rate_limits.store import LimitStore

# Expired deadlines and changed limits are noticed within this interval.
_POLL_INTERVAL_S = 0.25
_IDLE_S = 1.0
# Tasks of one session, and steps of one profile, before the next one is served.
_MAX_RELEASED = 64
_MAX_STEPS = 512

_log = logging.getLogger(__name__)

FindBuckets = Callable[[str, str], Awaitable[Sequence[Bucket]]]
"""Returns the buckets of a call to a profile under a session."""


class ParkedTaskScheduler:
    """Releases parked tasks while it runs. Lives on the home loop.

    Args:
        store: the parked tasks.
        find_buckets: returns the limits that a task waits for.
    """

    def __init__(self, store: LimitStore, find_buckets: FindBuckets) -> None:
        self._store = store
        self._find_buckets = find_buckets
        self._queues: dict[str, SessionQueues] = {}
        self._woken = asyncio.Event()
        self._outage = OutageLog(_log, "Can't release parked predictions")

    def wake(self, profile: str) -> None:
        """Serve a profile's queues at once."""
        if profile in self._queues:
            self._queues[profile].refresh_soon()
        self._woken.set()

    async def run(self) -> None:
        """Release tasks until cancelled."""
        while True:
            self._woken.clear()
            wait_s = await self._serve_all()
            if wait_s > 0:
                # Room comes with time; a parked task or a settlement only wakes it earlier.
                await wait_for_event(self._woken, wait_s)

    async def _serve_all(self) -> float:
        """Serve every profile once; return the seconds until the next round."""
        with self._outage.survive():
            await self._store.unpark()
            profiles = await self._store.count_parked()
            self._queues = {name: self._queues.get(name) or self._create_queues(name) for name in profiles}
            return min([await queues.serve() for queues in self._queues.values()], default=_IDLE_S)
        return _IDLE_S

    def _create_queues(self, profile: str) -> SessionQueues:
        return SessionQueues(profile, self._store, self._find_buckets)


class SessionQueues:
    """The sessions' queues of one profile, served round-robin."""

    def __init__(self, profile: str, store: LimitStore, find_buckets: FindBuckets) -> None:
        self._profile = profile
        self._store = store
        self._find_buckets = find_buckets
        self._order: deque[str] = deque()
        self._credit: dict[str, float] = {}
        self._blocked_until: dict[str, float] = {}
        self._quantum = 0.0
        self._refreshed_at = float("-inf")
        self._continues_turn = False

    def refresh_soon(self) -> None:
        """Refresh the list of waiting sessions in the next round."""
        self._refreshed_at = float("-inf")

    async def serve(self) -> float:
        """Release tasks while there is room; return the seconds until there may be more."""
        await self._refresh_sessions()
        passed = 0
        for _ in range(_MAX_STEPS):
            if passed >= len(self._order):
                break
            session = self._order[0]
            if self._blocked_until.get(session, 0.0) > monotonic():
                self._order.rotate(-1)
                passed += 1
                continue
            wait_s, progress = await self._serve_session(session)
            if wait_s:
                return min(wait_s, _POLL_INTERVAL_S)
            passed = 0 if progress else passed + 1
        return self._seconds_until_next()

    async def _serve_session(self, session: str) -> tuple[float, bool]:
        """Serve the next session; return how long the profile blocks all, and whether there was progress."""
        # A turn that the profile's limit interrupted continues without a new quantum.
        credit = self._credit.get(session, 0.0) + (0.0 if self._continues_turn else self._quantum)
        self._continues_turn = False
        buckets = await self._find_buckets(self._profile, session)
        released = await self._store.release(
            self._profile, session, credit, _MAX_RELEASED, _max_reservations(buckets), buckets
        )
        quantum_grew = released.next_cost > self._quantum
        self._quantum = max(self._quantum, released.next_cost)
        self._credit[session] = credit - released.cost
        if released.stop_reason == "p":
            self._continues_turn = True
            return max(released.wait_s, 0.001), True
        if released.stop_reason == "many":
            self._continues_turn = True
            return 0.0, True
        self._order.rotate(-1)
        if released.stop_reason == "s":
            # Credit is for sessions that wait for others, not for those that wait for their own limit.
            self._credit[session] = 0.0
            self._blocked_until[session] = monotonic() + min(released.wait_s, _POLL_INTERVAL_S)
        elif released.stop_reason == "empty":
            self._drop(session)
        return 0.0, bool(released.count) or quantum_grew or released.stop_reason in ("empty", "budget")

    async def _refresh_sessions(self) -> None:
        """Refresh which sessions have parked tasks."""
        if self._order and monotonic() < self._refreshed_at + _POLL_INTERVAL_S:
            return
        self._refreshed_at = monotonic()
        sessions = await self._store.list_sessions(self._profile)
        known = set(self._order)
        self._order.extend(session for session in sessions if session not in known)
        for session in known.difference(sessions):
            self._drop(session)

    def _drop(self, session: str) -> None:
        if session in self._order:
            self._order.remove(session)
        self._credit.pop(session, None)
        self._blocked_until.pop(session, None)

    def _seconds_until_next(self) -> float:
        if not self._order:
            return _POLL_INTERVAL_S
        return max(0.001, min(self._blocked_until.get(session, 0.0) for session in self._order) - monotonic())


def _max_reservations(buckets: Sequence[Bucket]) -> int:
    """Return about one second's worth of requests: more would start in a burst when workers become free."""
    rates = [bucket.limit * 1000 / bucket.window_ms for bucket in buckets if bucket.unit == 1 and bucket.window_ms]
    return max(8, int(min(rates))) if rates else 256
