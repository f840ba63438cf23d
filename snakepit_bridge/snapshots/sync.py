"""Synchronization of a replica's cache with the store, by notifications and by polling heads.

A notification triggers an immediate read of a session that is in use. Twice per lease the heads of all sessions in use
are compared, which finds lost notifications. Pings over the same connection show for how long notifications can be
relied on. Every reply counts from the time of its *request*, so a slow one doesn't extend freshness.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any
from weakref import WeakValueDictionary

from snakepit_bridge.exceptions import RevisionNotReachedError, SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.process.aio import cancel_tasks, run_together, wait_for_event
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import Head, SnapshotStore, Watch
from snakepit_bridge.snapshots.cached import CachedSnapshot, SnapshotCache, clock
from snakepit_bridge.snapshots.freshness import StoreContact
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import APPLY_LAG

# A session that wasn't used for this time isn't synchronized; its next use reads it first. Beyond this, that round trip
# costs less than the polling.
_IDLE_S = 10.0
_MIN_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 1.0

UNPUBLISHED = Token(0, 0)
"""The token of the default session before its first publish."""

_log = logging.getLogger(__name__)


class ReplicaSync:
    """Keeps a replica's cache in sync with the store, on the home loop.

    Args:
        store: the store to follow.
        held: the cache.
        lease_s: seconds for which a pong, a comparison or a read is relied on.
    """

    def __init__(self, store: SnapshotStore, held: SnapshotCache, lease_s: float) -> None:
        self._store = store
        self._cache = held
        self._lease_s = lease_s
        self._watch: Watch | None = None
        self._watched: set[str] = set()
        self._reading: dict[str, asyncio.Task[CachedSnapshot]] = {}
        self._changed: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: list[asyncio.Task[None]] = []
        self.connected_until = 0.0
        self.contact = StoreContact(lease_s)

    def start(self) -> None:
        """Start the background tasks, unless they are running."""
        if self._running and not any(task.done() for task in self._running):
            return
        for task in self._running:
            task.cancel()
        self._running = [self._spawn(self._run_watch()), self._spawn(self._run_compare())]

    async def aclose(self) -> None:
        """Stop all tasks."""
        await cancel_tasks(*self._tasks, *self._reading.values())

    async def read(self, session: str, since: float) -> CachedSnapshot:
        """Return a session that was read at or after a moment; share a read that is under way if it is recent enough.

        Args:
            session: the session.
            since: a time of ``clock``.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """
        while True:
            reading = self._reading.get(session)
            if reading is None or reading.done():
                reading = self._reading[session] = asyncio.create_task(self._read(session))
            # A cancelled caller leaves the read to the others, and each gets its own copy of an error.
            held = await share_future(reading)
            if held.verified_at >= since:
                return held

    async def wait_for_token(self, session: str, token: Token, wait_s: float) -> CachedSnapshot:
        """Return a session at or past a token, waiting up to ``wait_s`` seconds for it to be published.

        Raises:
            RevisionNotReachedError: the token wasn't published in time.
            RevisionLostError: the token was lost with its epoch.
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """
        started = clock()
        # A read that is under way will do if it finds the token.
        held = await self.read(session, started - self._lease_s)
        if not held.snapshot.satisfies(token):
            held = await self.read(session, started)
        while not held.snapshot.satisfies(token):
            if held.snapshot.token == UNPUBLISHED:
                raise SessionNotFoundError(session)
            waited_s = clock() - started
            if waited_s >= wait_s:
                raise RevisionNotReachedError(session, str(token), str(held.snapshot.token), round(waited_s, 3))
            await self.wait_for_change(session, wait_s - waited_s)
            # Read again at the end of the wait, since the store may be unreachable rather than the publisher.
            held = self._cache.get(session) if clock() - started < wait_s else None
            held = held or await self.read(session, clock())
            held.used_at = clock()
        return held

    async def follow(self, session: str, follower: object) -> None:
        """Read a session, and keep it in sync until ``unfollow``, whether or not it exists or tasks use it."""
        self._cache.follow(session, follower)
        await self._run_quietly(lambda: self._catch_up(session))

    def unfollow(self, session: str, follower: object) -> None:
        """Undo ``follow``."""
        if not self._cache.unfollow(session, follower) and self._cache.get(session) is None:
            self._unwatch([session])

    async def wait_for_newer(self, session: str, token: Token) -> Snapshot:
        """Return the first snapshot of a followed session that is newer than a token, waiting for it without end."""
        while (held := self._cache.get(session)) is None or held.snapshot.token <= token:
            self.start()
            await self.wait_for_change(session, _IDLE_S)
        return held.snapshot

    async def wait_for_change(self, session: str, timeout_s: float) -> None:
        """Wait until a session changes, at most ``timeout_s`` seconds."""
        event = self._changed.get(session)
        if event is None:
            event = self._changed[session] = asyncio.Event()
        await wait_for_event(event, timeout_s)  # the caller checks the cache and the clock

    async def _read(self, session: str) -> CachedSnapshot:
        try:
            await self._subscribe(session)
            held = await self._read_now(session)
            if self._watch is not None and session not in self._watched:
                # The watch was opened meanwhile, without this session, so notifications may have been lost.
                await self._subscribe(session)
                held = await self._read_now(session)
            return held
        finally:
            # Before the task is done, so that no caller takes a finished read for a new one.
            self._reading.pop(session, None)

    async def _read_now(self, session: str) -> CachedSnapshot:
        asked_at = clock()
        held = self._cache.get(session)
        have = None if held is None or held.snapshot.token == UNPUBLISHED else held.snapshot
        try:
            snapshot = await self._store.read(session, have)
        except SessionNotFoundError:
            self.contact.note_answer(clock())
            if session != DEFAULT_SESSION:
                self._forget(session)
                raise
            # The default session exists without a publish. After a drop its tokens start again.
            if have is not None:
                self._forget(session)
            snapshot = Snapshot(session, UNPUBLISHED, {}, 0.0)
        self.contact.note_answer(clock())
        return self._install(session, snapshot, asked_at)

    def _install(self, session: str, snapshot: Snapshot, asked_at: float) -> CachedSnapshot:
        held = self._cache.get(session)
        if held is None:
            self._unwatch(self._cache.put(session, snapshot, asked_at))
            self._notify(session)
        elif snapshot.token >= held.snapshot.token:
            changed = snapshot is not held.snapshot
            if snapshot.token > held.snapshot.token:
                self._record_lag(snapshot, held)
            held.snapshot = snapshot
            held.newest = max(held.newest, snapshot.token)
            held.verified_at = max(held.verified_at, asked_at)
            if changed:
                self._notify(session)
        else:
            # A process never goes back. Nor does a store, which answers whoever has more than it in a new epoch.
            raise StoreUnavailableError(str(self._store), f"it went back to {snapshot.token} of '{session}'")
        return self._cache.get(session) or CachedSnapshot(snapshot, asked_at, asked_at, snapshot.token, asked_at)

    def _record_lag(self, snapshot: Snapshot, held: CachedSnapshot) -> None:
        """Record how long after its publish a revision of a session that tasks use is served here."""
        is_used = clock() - held.used_at <= _IDLE_S and not self._cache.is_followed(snapshot.session)
        if is_used and TELEMETRY.meter.enabled and snapshot.published_at:
            TELEMETRY.meter.record(APPLY_LAG, max(0.0, clock() + self.contact.offset_s - snapshot.published_at))

    def _notify(self, session: str) -> None:
        event = self._changed.pop(session, None)
        if event is not None:
            event.set()

    def _forget(self, session: str) -> None:
        self._cache.drop(session)
        if not self._cache.is_followed(session):
            self._unwatch([session])
        self._notify(session)

    async def _subscribe(self, session: str) -> None:
        if self._watch is None or session in self._watched:
            return
        # The watch may be reconnecting, and will add the session then; the read goes on.
        with suppress(StoreUnavailableError):
            await self._add(self._watch, [session])

    async def _add(self, watch: Watch, sessions: Collection[str]) -> None:
        """Add sessions to a watch; they count as watched unless that fails."""
        self._watched.update(sessions)
        try:
            await watch.add(sessions)
        except BaseException:
            self._watched.difference_update(sessions)
            raise

    def _unwatch(self, sessions: list[str]) -> None:
        watch, watched = self._watch, [session for session in sessions if session in self._watched]
        self._watched.difference_update(watched)
        if watch is not None and watched:
            self._spawn(self._run_quietly(lambda: self._discard(watch, watched)))

    async def _discard(self, watch: Watch, sessions: list[str]) -> None:
        # One of them may be in use again.
        await watch.discard([session for session in sessions if session not in self._watched])

    async def _run_watch(self) -> None:
        """Watch forever; after a broken connection reopen the watch and compare everything in use."""
        backoff_s = _MIN_BACKOFF_S
        while True:
            try:
                async with self._store.open_watch() as watch:
                    await self._resubscribe(watch)
                    await self.compare()
                    backoff_s = _MIN_BACKOFF_S
                    await run_together(self._run_pings(watch), self._run_moves(watch))
            except StoreUnavailableError as exc:
                _log.info("Watch connection lost, each task reads its session: %s", exc)
            finally:
                self._watch, self.connected_until = None, 0.0
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)

    async def _resubscribe(self, watch: Watch) -> None:
        self._watched.clear()
        while missing := {*self._cache, *self._cache.followed} - self._watched:
            await self._add(watch, missing)
        self._watch = watch

    async def _run_pings(self, watch: Watch) -> None:
        while True:
            asked_at = clock()
            await watch.ping()
            self.contact.note_answer(clock())
            self.connected_until = asked_at + self._lease_s
            await asyncio.sleep(self._lease_s / 3)

    async def _run_moves(self, watch: Watch) -> None:
        while True:
            for session, token in (await watch.moves()).items():
                held = self._cache.get(session)
                if held is None or token is None or _is_news(token, held.snapshot):
                    self._handle_move(session, held, token)

    def _handle_move(self, session: str, held: CachedSnapshot | None, token: Token | None) -> None:
        if held is not None and token is not None:
            held.newest = max(held.newest, token)
        if self._cache.is_in_use(session, clock() - _IDLE_S):
            self._spawn(self._run_quietly(lambda: self._catch_up(session)))
        elif held is not None:
            held.verified_at = 0.0  # its next use reads it again

    async def _catch_up(self, session: str) -> None:
        held = self._cache.get(session)
        if held is not None and held.newest > held.snapshot.token:
            # A read that is under way will do if it finds the announced token.
            await self.read(session, clock() - self._lease_s)
            held = self._cache.get(session)
            if held is not None and held.snapshot.token >= held.newest:
                return
        while held is not None or self._cache.is_followed(session):
            wanted = held and held.newest
            await self.read(session, clock())
            held = self._cache.get(session)
            # A change that is announced during a read may not be in its reply.
            if held is None or held.snapshot.token >= held.newest or held.newest == wanted:
                return

    async def _run_compare(self) -> None:
        """Compare forever, twice per lease."""
        due = clock() + self._lease_s / 2
        while True:
            await asyncio.sleep(max(self._lease_s / 10, due - clock()))
            # Measured from start to start, since comparing takes a while and the lease must not expire between.
            due = clock() + self._lease_s / 2
            # Nothing is verified while the store is unreachable, so every caller reads and gets the error.
            await self._run_quietly(self.compare)

    async def compare(self) -> None:
        """Compare every session that is in use or followed with its head in the store.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """
        sessions = self._cache.in_use_since(clock() - _IDLE_S)
        if not sessions:
            return
        if self._watch is not None and (missing := [each for each in sessions if each not in self._watched]):
            await self._add(self._watch, missing)
        asked_at = clock()
        heads = await self._store.heads(sessions)
        self.contact.note_answer(clock())
        for session in sessions:
            held = self._cache.get(session)
            if held is not None and held.verified_at < asked_at:
                self._handle_head(session, held, heads.get(session), asked_at)
            elif held is None and session in heads:
                self._handle_move(session, None, heads[session].token)

    def _handle_head(self, session: str, held: CachedSnapshot, head: Head | None, asked_at: float) -> None:
        if head is not None:
            # As if the reply were as old as the request: staleness may be overestimated, never underestimated.
            self.contact.offset_s = head.now - asked_at
        staging = (None, "") if head is None else (head.rollout, head.experiments)
        is_restaged = staging != (held.snapshot.rollout, held.snapshot.experiments)
        if (UNPUBLISHED if head is None else head.token) != held.snapshot.token or is_restaged:
            self._handle_move(session, held, None if head is None else head.token)
            return
        if (
            head is not None
            and (newer := held.snapshot.with_confirmation(head.confirmed_at, head.heard)) is not held.snapshot
        ):
            held.snapshot = newer
            self._notify(session)
        held.verified_at = asked_at

    async def _run_quietly(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run background work and ignore its errors; the next caller reads the session and gets them."""
        try:
            await work()
        except (StoreUnavailableError, SessionNotFoundError) as exc:
            _log.debug("%s", exc)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In a context of its own: it outlives the prediction that starts it.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            _log.error("Replica synchronization failed; the next task restarts it.", exc_info=exc)


def _is_news(token: Token, held: Snapshot) -> bool:
    """Check whether an announced token is a newer one, or may tell of a change of what stages the one that is held."""
    return token > held.token or (token == held.token and (held.rollout is not None or bool(held.experiments)))
