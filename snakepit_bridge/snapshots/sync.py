"""The follower: keeps what a process holds up with the store, by hints, by comparing heads, and by reading.

A hint makes it read a session that is in use at once. Twice per lease the heads of all sessions in use are compared,
which finds what no hint told. A pong over the connection of the hints tells for how long they can be relied on. Every
answer counts from the moment that it was *asked* for, so one that took long vouches for little.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

from snakepit_bridge.exceptions import RevisionNotReachedError, SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.process.home_loop import share
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import STORE, Head, SnapshotStore, Watch
from snakepit_bridge.snapshots.cached import CachedSnapshot, HeldSnapshots, clock
from snakepit_bridge.snapshots.contact import Contact
from snakepit_bridge.snapshots.snapshot import Heard, Snapshot

# A session that nobody asked for in this time is left alone; its next use reads it first. About where that one round
# trip costs less than the comparisons in between.
_IDLE_S = 10.0
_AGAIN_S = 0.05
_AGAIN_AT_MOST_S = 1.0

NOTHING_YET = Token(0, 0)
"""The token of the default session before its first publish."""

_log = logging.getLogger(__name__)


class ReplicaSync:
    """Reads for a replica, on the home loop.

    Args:
        store: what it follows.
        held: where it puts what it reads.
        lease_s: seconds for which a pong, a comparison or a read is relied on.
    """

    def __init__(self, store: SnapshotStore, held: HeldSnapshots, lease_s: float) -> None:
        self._store = store
        self._held = held
        self._lease_s = lease_s
        self._watch: Watch | None = None
        self._watched: set[str] = set()
        self._reading: dict[str, asyncio.Task[CachedSnapshot]] = {}
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: list[asyncio.Task[None]] = []
        self.connected_until = 0.0
        self.store_offset = time.time() - clock()
        self._contact = Contact(lease_s)

    def start(self) -> None:
        """Begins to follow, unless it does so already."""
        if self._running and not any(task.done() for task in self._running):
            return
        for task in self._running:
            task.cancel()
        self._running = [self._spawn(self._watch_on()), self._spawn(self._compare_on())]

    async def aclose(self) -> None:
        """Stops following."""
        tasks: list[asyncio.Task[Any]] = [*self._tasks, *self._reading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def read(self, session: str, since: float) -> CachedSnapshot:
        """Returns a session as the store had it at a moment or later, reading it unless a read under way will do.

        Raises:
            SessionNotFoundError, StoreUnavailableError
        """
        while True:
            reading = self._reading.get(session)
            if reading is None or reading.done():
                reading = self._reading[session] = asyncio.create_task(self._read(session))
            # Whoever stops waiting leaves the read to the others, and each gets a failure of its own.
            held = await share(reading)
            if held.verified_at >= since:
                return held

    async def reach(self, session: str, token: Token, wait_s: float) -> CachedSnapshot:
        """Returns a session at a token or past it, waiting for it to be published for so many seconds.

        Raises:
            RevisionNotReachedError, RevisionLostError, SessionNotFoundError, StoreUnavailableError
        """
        started = clock()
        held = await self.read(session, started)
        while not held.snapshot.meets(token):
            if held.snapshot.token == NOTHING_YET:
                raise SessionNotFoundError(session)
            waited = clock() - started
            if waited >= wait_s:
                raise RevisionNotReachedError(session, str(token), str(held.snapshot.token), round(waited, 3))
            await self.changed(session, wait_s - waited)
            # Read anew at the end of the wait: it may be the store that is away, and not the publisher.
            held = self._held.get(session) if clock() - started < wait_s else None
            held = held or await self.read(session, clock())
            held.used_at = clock()
        return held

    async def changed(self, session: str, timeout_s: float) -> None:
        """Returns once something of a session is new, or after so many seconds."""
        event = self._changed.get(session)
        if event is None:
            event = self._changed[session] = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return  # the caller looks at what there is, and at the clock

    async def _read(self, session: str) -> CachedSnapshot:
        try:
            await self._subscribe(session)
            held = await self._read_now(session)
            if self._watch is not None and session not in self._watched:
                # The watch was opened meanwhile, and didn't know of the session: what came in between was not told.
                await self._subscribe(session)
                held = await self._read_now(session)
            return held
        finally:
            # Before the task is done, so that nobody finds one that is and takes its answer for a fresh one.
            self._reading.pop(session, None)

    async def _read_now(self, session: str) -> CachedSnapshot:
        asked_at = clock()
        held = self._held.get(session)
        have = None if held is None or held.snapshot.token == NOTHING_YET else held.snapshot
        try:
            snapshot = await self._store.read(session, have)
        except SessionNotFoundError:
            self._contact.answered(clock())
            if session != DEFAULT_SESSION:
                self._forget(session)
                raise
            # The default session needs no publish. Its tokens begin anew, as every session's do after a drop.
            if have is not None:
                self._forget(session)
            snapshot = Snapshot(session, NOTHING_YET, {}, 0.0)
        self._contact.answered(clock())
        return self._install(session, snapshot, asked_at)

    def _install(self, session: str, snapshot: Snapshot, asked_at: float) -> CachedSnapshot:
        held = self._held.get(session)
        if held is None:
            self._let_go(self._held.put(session, snapshot, asked_at))
            self._tell(session)
        elif snapshot.token >= held.snapshot.token:
            new = snapshot is not held.snapshot
            held.snapshot = snapshot
            held.newest = max(held.newest, snapshot.token)
            held.verified_at = max(held.verified_at, asked_at)
            if new:
                self._tell(session)
        else:
            # A process never goes back. Nor does a store, which answers whoever has more than it in a new epoch.
            raise StoreUnavailableError(str(self._store), f"it went back to {snapshot.token} of '{session}'")
        return self._held.get(session) or CachedSnapshot(snapshot, asked_at, asked_at, snapshot.token, asked_at)

    def _tell(self, session: str) -> None:
        event = self._changed.pop(session, None)
        if event is not None:
            event.set()

    def _forget(self, session: str) -> None:
        self._held.drop(session)
        self._tell(session)

    async def _subscribe(self, session: str) -> None:
        if self._watch is None or session in self._watched:
            return
        self._watched.add(session)
        try:
            await self._watch.add([session])
        except StoreUnavailableError:
            # The watch is being opened again, and takes the session along; the read goes its own way.
            self._watched.discard(session)

    def _let_go(self, sessions: list[str]) -> None:
        watch, watched = self._watch, [session for session in sessions if session in self._watched]
        self._watched.difference_update(watched)
        if watch is not None and watched:
            self._spawn(self._quietly(lambda: self._discard(watch, watched)))

    async def _discard(self, watch: Watch, sessions: list[str]) -> None:
        # One of them may have been asked for again by now.
        await watch.discard([session for session in sessions if session not in self._watched])

    async def _watch_on(self) -> None:
        """Watches for ever; a watch that breaks is opened again, and everything in use looked at."""
        again_s = _AGAIN_S
        while True:
            try:
                async with self._store.open_watch() as watch:
                    await self._resubscribe(watch)
                    await self.compare()
                    again_s = _AGAIN_S
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self._beat(watch))
                        both.create_task(self._listen(watch))
            except* StoreUnavailableError as away:
                _log.info("Not connected, so each task reads its session: %s", away.exceptions[0])
            finally:
                self._watch, self.connected_until = None, 0.0
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, _AGAIN_AT_MOST_S)

    async def _resubscribe(self, watch: Watch) -> None:
        self._watched.clear()
        while missing := {*self._held} - self._watched:
            self._watched |= missing
            await watch.add(missing)
        self._watch = watch

    async def _beat(self, watch: Watch) -> None:
        while True:
            asked_at = clock()
            await watch.ping()
            self._contact.answered(clock())
            self.connected_until = asked_at + self._lease_s
            await asyncio.sleep(self._lease_s / 3)

    async def _listen(self, watch: Watch) -> None:
        while True:
            for session, token in (await watch.moves()).items():
                held = self._held.get(session)
                if held is not None and (token is None or token > held.snapshot.token):
                    self._moved(session, held, token)

    def _moved(self, session: str, held: CachedSnapshot, token: Token | None) -> None:
        if token is not None:
            held.newest = max(held.newest, token)
        if clock() - held.used_at > _IDLE_S:
            held.verified_at = 0.0  # so that its next use reads it
        else:
            self._spawn(self._quietly(lambda: self._catch_up(session)))

    async def _catch_up(self, session: str) -> None:
        held = self._held.get(session)
        while held is not None:
            wanted = held.newest
            await self.read(session, clock())
            held = self._held.get(session)
            # What is told while a read is under way may not be in its answer.
            if held is None or held.snapshot.token >= held.newest or held.newest == wanted:
                return

    async def _compare_on(self) -> None:
        """Compares for ever, often enough that no answer grows older than a lease between two."""
        due = clock() + self._lease_s / 2
        while True:
            await asyncio.sleep(max(self._lease_s / 10, due - clock()))
            # From beginning to beginning: many sessions take a while, and the lease must not end between two.
            due = clock() + self._lease_s / 2
            # While the store is away nothing is verified, so whoever asks reads by himself and is told.
            await self._quietly(self.compare)

    async def compare(self) -> None:
        """Compares every session in use with its head in the store.

        Raises:
            StoreUnavailableError
        """
        sessions = self._held.used_since(clock() - _IDLE_S)
        if not sessions:
            return
        if self._watch is not None and (missing := [each for each in sessions if each not in self._watched]):
            self._watched.update(missing)
            await self._watch.add(missing)
        asked_at = clock()
        heads = await self._store.heads(sessions)
        self._contact.answered(clock())
        for session in sessions:
            held = self._held.get(session)
            if held is not None and held.verified_at < asked_at:
                self._compared(session, held, heads.get(session), asked_at)

    def _compared(self, session: str, held: CachedSnapshot, head: Head | None, asked_at: float) -> None:
        if head is not None:
            # As if the answer were as old as the question: what is called staleness may be too large, never too small.
            self.store_offset = head.now - asked_at
        if (NOTHING_YET if head is None else head.token) != held.snapshot.token:
            self._moved(session, held, None if head is None else head.token)
            return
        if head is not None and (newer := held.snapshot.confirmed(head.confirmed_at, head.heard)) is not held.snapshot:
            held.snapshot = newer
            self._tell(session)
        held.verified_at = asked_at

    def staleness(self, held: CachedSnapshot) -> float:
        """Returns the seconds since the session's authority was last known to agree with what is held."""
        if held.snapshot.authority in ("", STORE):
            # The store agrees with itself at every look.
            return clock() - held.verified_at
        return max(0.0, clock() + self.store_offset - held.snapshot.confirmed_at)

    def silent_s(self, held: CachedSnapshot) -> float:
        """Return for how many seconds longer than it may the session's authority has been silent; 0 if it hasn't."""
        sign = _sign(held)
        return 0.0 if sign is None else max(0.0, clock() + self.store_offset - sign.at - sign.silence_s)

    def away_in_s(self, held: CachedSnapshot) -> float:
        """Return the seconds until the session's authority counts as away, 0 if it does, inf if it never will.

        While the store can't be heard nobody's silence is counted: the authority may be confirming all the time.
        """
        sign = _sign(held)
        if sign is None:
            return math.inf
        return max(0.0, sign.silence_s - self._contact.heard_s(sign.at - self.store_offset, clock()))

    async def _quietly(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs what nobody waits for; whoever then asks for a session reads it by himself and gets the error."""
        try:
            await work()
        except (StoreUnavailableError, SessionNotFoundError) as problem:
            _log.debug("%s", problem)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("The replica stopped following; the next task starts it again.", exc_info=error)


def _sign(held: CachedSnapshot) -> Heard | None:
    return None if held.snapshot.authority in ("", STORE) else held.snapshot.heard
