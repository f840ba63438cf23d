"""The mover: takes parked tasks out of their lanes, each with a reservation, as the limits leave room for them.

One process at a time does it, under a lease; a second one would do no harm beyond the order. Sessions take turns by
deficit round robin: in each round a session may take as much as every other, and what it couldn't use of that, because
its next task costs more, it keeps. So a session that floods waits for itself alone. Priority decides within a session.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from snakepit_bridge.exceptions import StoreUnavailableError
from tasks.outage_log import OutageLog
from tasks.rate_limits.rules import Bucket
from tasks.rate_limits.store import LimitStore

# A deadline that passes in a lane, and a limit that a variable changed, are noticed within so many seconds.
_POLL_INTERVAL_S = 0.25
_IDLE_S = 1.0
# Tasks of one session, and steps of one profile, before others get their turn.
_MAX_RELEASED = 64
_MAX_STEPS = 512

_log = logging.getLogger(__name__)

FindBuckets = Callable[[str, str], Awaitable[Sequence[Bucket]]]
"""Tells which buckets concern a call to a profile under a session."""


class ParkedTaskScheduler:
    """Releases parked tasks while it runs. Lives on the home loop.

    Args:
        store: where they are parked.
        buckets_of: the limits that they wait for.
    """

    def __init__(self, store: LimitStore, find_buckets: FindBuckets) -> None:
        self._store = store
        self._find_buckets = find_buckets
        self._queues: dict[str, SessionQueues] = {}
        self._woken = asyncio.Event()
        self._outage = OutageLog(_log, "Can't release parked predictions")

    def wake(self, profile: str) -> None:
        """Has it look at a profile's lanes at once."""
        if profile in self._queues:
            self._queues[profile].refresh_soon()
        self._woken.set()

    async def run(self) -> None:
        """Move until it is cancelled."""
        while True:
            self._woken.clear()
            wait_s = await self._serve_all()
            if wait_s > 0:
                # Room that comes with time is the condition; a park or a settlement only makes it come sooner.
                await _wait_for_event(self._woken, wait_s)

    async def _serve_all(self) -> float:
        """Serve every profile once; returns the seconds after which it is worth another look."""
        try:
            await self._store.unpark()
            profiles = await self._store.count_parked()
            self._queues = {one: self._queues.get(one) or self._create_queues(one) for one in profiles}
            waits = [await lanes.serve() for lanes in self._queues.values()]
        except StoreUnavailableError as away:
            self._outage.failed(away)
            return _IDLE_S
        except Exception:  # noqa: BLE001 (a round that fails must not end all that come after it)
            _log.exception("A round of releasing parked predictions failed; it is tried again")
            return _IDLE_S
        self._outage.recovered()
        return min(waits, default=_IDLE_S)

    def _create_queues(self, profile: str) -> SessionQueues:
        return SessionQueues(profile, self._store, self._find_buckets)


class SessionQueues:
    """The lanes of one profile, served in turn."""

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
        """Has the next round find out who waits."""
        self._refreshed_at = float("-inf")

    async def serve(self) -> float:
        """Release what there is room for; returns the seconds after which there may be more."""
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
        """Serve the session whose turn it is; returns how long the profile holds all up, and whether this led on."""
        # A turn that the profile's limit cut short goes on; it isn't a new one, with new credit.
        credit = self._credit.get(session, 0.0) + (0.0 if self._continues_turn else self._quantum)
        self._continues_turn = False
        buckets = await self._find_buckets(self._profile, session)
        got = await self._store.release(
            self._profile, session, credit, _MAX_RELEASED, _max_reservations(buckets), buckets
        )
        grew = got.next_cost > self._quantum
        self._quantum = max(self._quantum, got.next_cost)
        self._credit[session] = credit - got.cost
        if got.stop_reason == "p":
            self._continues_turn = True
            return max(got.wait_s, 0.001), True
        if got.stop_reason == "many":
            self._continues_turn = True
            return 0.0, True
        self._order.rotate(-1)
        if got.stop_reason == "s":
            # Credit is for those whom others keep waiting, not for those who wait for their own limit.
            self._credit[session] = 0.0
            self._blocked_until[session] = monotonic() + min(got.wait_s, _POLL_INTERVAL_S)
        elif got.stop_reason == "empty":
            self._drop(session)
        return 0.0, bool(got.count) or grew or got.stop_reason in ("empty", "budget")

    async def _refresh_sessions(self) -> None:
        """Learns which sessions have tasks parked."""
        if self._order and monotonic() < self._refreshed_at + _POLL_INTERVAL_S:
            return
        self._refreshed_at = monotonic()
        found = await self._store.list_sessions(self._profile)
        known = set(self._order)
        self._order.extend(session for session in found if session not in known)
        for session in known.difference(found):
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
    """About a second's worth: more would only wait in the queue, and start in a burst when workers come free."""
    rates = [bucket.limit * 1000 / bucket.window_ms for bucket in buckets if bucket.unit == 1 and bucket.window_ms]
    return max(8, int(min(rates))) if rates else 256


async def _wait_for_event(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
