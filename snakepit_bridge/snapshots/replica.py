"""Replica: a process's cached snapshots, served by requirement and kept in sync with the store."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import cast
from weakref import WeakSet

from snakepit_bridge.exceptions import AuthorityAwayError, StalenessExceededError, StoreUnavailableError
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.process.home_loop import get_home_loop, run_on_home_loop
from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.cached import CachedSnapshot, SnapshotCache, clock
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.snapshots.sync import UNPUBLISHED, ReplicaSync

_LATEST = Requirement()
_DEFAULT_POLICY = FreshnessPolicy()
# Maximum number of exact past snapshots that are cached besides, for pins and replays.
_MAX_PINNED = 256


class Replica:
    """The snapshots of one process, kept in sync with the store; usable from every thread, event loop and fork.

    A returned snapshot includes every publish from more than ``watch_lease_s`` seconds before the call, meets the
    requirement, and is never older than one returned before. While connected, calls need no round trip.

    Args:
        store: the store to follow.
        wait_s: seconds to wait for a revision that hasn't been published yet.
        watch_lease: seconds for which a reply of the store is relied on.
        max_sessions: maximum number of cached sessions.
    """

    def __init__(
        self, store: SnapshotStore, wait_s: float = 5.0, *, watch_lease_s: float = 1.0, max_sessions: int = 10_000
    ) -> None:
        self._store = store
        self._wait_s = wait_s
        self._lease_s = watch_lease_s
        self._max_sessions = max_sessions
        self.forget()
        _replicas.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, {len(self._cache)} sessions)"

    def peek(self, session: str) -> Snapshot | None:
        """Return the cached snapshot if it is fresh enough without asking the store, else None."""
        held = self._get(session)
        if held is None:
            return None
        now = clock()
        if now > held.verified_at + self._lease_s or now > self._sync.connected_until:
            return None
        held.used_at = now
        return held.snapshot

    async def snapshot(self, session: str, requirement: Requirement = _LATEST) -> Snapshot:
        """Return a snapshot that meets the requirement.

        The default session exists without a publish: it is empty until the first one.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            RevisionNotReachedError: the required token wasn't published within the wait.
            RevisionLostError: the required token was trimmed or lost.
            StoreUnavailableError: the store is unreachable.
        """
        return self._get_cached(session, requirement) or await run_on_home_loop(self._fetch(session, requirement))

    async def serve(
        self, session: str, requirement: Requirement = _LATEST, policy: FreshnessPolicy = _DEFAULT_POLICY
    ) -> ServedSnapshot:
        """Return a snapshot that meets the requirement and the freshness policy, with its age.

        Raises:
            AuthorityAwayError: the authority is unreachable, and the outage policy rejects the cached snapshot.
            StalenessExceededError: the authority is reachable, but its last confirmation is older than allowed.
            SessionNotFoundError, RevisionNotReachedError, RevisionLostError, StoreUnavailableError: see ``snapshot``.
        """
        at_hand = self._get_cached(session, requirement)
        if at_hand is not None:
            if requirement.kind == "exactly":
                return ServedSnapshot(at_hand, self._age(at_hand))
            held = self._get(session)
            if held is not None and self._is_fresh(held, policy):
                return ServedSnapshot(at_hand, self._sync.contact.staleness_s(held))
        return await run_on_home_loop(self._serve(session, requirement, policy))

    async def changes(self, session: str) -> AsyncGenerator[Snapshot]:
        """Yield the session's newest snapshot and then each newer one; a slow reader skips some, never the last.

        The session need not exist yet. While the store is unreachable, nothing is yielded. Each change is read once,
        however many readers a session has.
        """
        sync, follower, token = self._sync, object(), UNPUBLISHED
        try:
            await run_on_home_loop(sync.follow(session, follower))
            while True:
                snapshot = await run_on_home_loop(sync.wait_for_newer(session, token))
                token = snapshot.token
                yield snapshot
        finally:
            home = get_home_loop()
            # One turn later: where the loop was busy, `follow` may run in this one, although it was cancelled before.
            home.call_soon_threadsafe(home.call_soon, sync.unfollow, session, follower)

    def staleness(self, session: str) -> float:
        """Return the seconds since the authority last confirmed the cached snapshot; inf if there is none.

        For a session that is published to the store directly, the store's last reply counts.
        """
        held = self._get(session)
        return math.inf if held is None else self._sync.contact.staleness_s(held)

    def store_time(self) -> float:
        """Return the store's time in Unix seconds, as the last comparison of heads told it; before, this machine's."""
        return clock() + self._sync.contact.offset_s

    @property
    def connected(self) -> bool:
        """Whether the store replied within the lease, so that notifications can be relied on."""
        return clock() <= self._sync.connected_until

    def held_tokens(self) -> dict[str, Token]:
        """Return the token of every cached session."""
        return {session: held.snapshot.token for session in self._cache if (held := self._get(session)) is not None}

    async def aclose(self) -> None:
        """Stop following the store and clear the cache; the next use starts again."""
        await run_on_home_loop(self._stop())

    async def _stop(self) -> None:
        sync = self._sync
        self.forget()
        await sync.aclose()

    def forget(self) -> None:
        """Reset to an empty cache, as a forked child must."""
        self._cache = SnapshotCache(self._max_sessions)
        self._get = self._cache.get
        self._pinned: ThreadSafeLRUCache[tuple[str, Token], Snapshot] = ThreadSafeLRUCache(_MAX_PINNED)
        self._sync = ReplicaSync(self._store, self._cache, self._lease_s)

    def _get_cached(self, session: str, requirement: Requirement) -> Snapshot | None:
        token = requirement.token
        if token is None:
            return self.peek(session)
        if requirement.kind == "exactly":
            # The content of a token never changes, so the store needn't be asked.
            held = self._get(session)
            if held is not None and held.snapshot.token == token:
                held.used_at = clock()
                return held.snapshot
            return self._pinned.get((session, token))
        snapshot = self.peek(session)
        return snapshot if snapshot and snapshot.token != UNPUBLISHED and snapshot.satisfies(token) else None

    async def _fetch(self, session: str, requirement: Requirement) -> Snapshot:
        if requirement.kind == "exactly":
            return await self._read_at(session, cast(Token, requirement.token))
        return (await self._follow(session, requirement)).snapshot

    async def _follow(self, session: str, requirement: Requirement) -> CachedSnapshot:
        self._sync.start()
        if requirement.token is None:
            held = await self._sync.read(session, clock() - self._lease_s)
        else:
            held = await self._sync.wait_for_token(session, requirement.token, self._wait_s)
        held.used_at = clock()
        return held

    async def _read_at(self, session: str, token: Token) -> Snapshot:
        snapshot = await self._store.read_at(session, token)
        self._pinned.put((session, token), snapshot)
        return snapshot

    async def _serve(self, session: str, requirement: Requirement, terms: FreshnessPolicy) -> ServedSnapshot:
        try:
            if requirement.kind == "exactly":
                snapshot = await self._fetch(session, requirement)
                return ServedSnapshot(snapshot, self._age(snapshot))
            return await self._wait_until_fresh(await self._follow(session, requirement), terms)
        except StoreUnavailableError as exc:
            return self._serve_from_cache(session, requirement, terms, exc)

    def _serve_from_cache(
        self, session: str, requirement: Requirement, terms: FreshnessPolicy, error: StoreUnavailableError
    ) -> ServedSnapshot:
        """Serve the cached snapshot, while the store is unreachable, if requirement and policy allow it."""
        held = self._get(session)
        if held is None or requirement.kind == "exactly" or terms.outage.max_age_s is None:
            raise error
        if requirement.token is not None and not held.snapshot.satisfies(requirement.token):
            raise error
        age_s = self._sync.contact.staleness_s(held)
        if not terms.outage.allows(age_s):
            raise StoreUnavailableError(
                error.url, f"{error.problem}, and session '{session}' was last confirmed {age_s:.1f} s ago"
            ) from error
        held.used_at = clock()
        return ServedSnapshot(held.snapshot, age_s, store_away=True, outage=True)

    async def _wait_until_fresh(self, held: CachedSnapshot, terms: FreshnessPolicy) -> ServedSnapshot:
        """Return the cached snapshot once it is fresh enough, or apply the outage policy when it can't become so."""
        session, started = held.snapshot.session, clock()
        if not self._is_fresh(held, terms):
            held = await self._sync.read(session, started)
        while not self._is_fresh(held, terms, elapsed_s := clock() - started):
            overdue = self._is_stale(held, terms, elapsed_s)
            left_s = min(self._sync.contact.away_in_s(held), self._wait_s - elapsed_s if overdue else math.inf)
            if left_s <= 0:
                return self._apply_outage_policy(held, terms)
            await self._sync.wait_for_change(session, left_s)
            held = await self._sync.read(session, clock() - self._lease_s)
        return ServedSnapshot(held.snapshot, self._sync.contact.staleness_s(held))

    def _is_fresh(self, held: CachedSnapshot, terms: FreshnessPolicy, elapsed_s: float = 0.0) -> bool:
        return not self._sync.contact.overdue_s(held) and not self._is_stale(held, terms, elapsed_s)

    def _is_stale(self, held: CachedSnapshot, terms: FreshnessPolicy, elapsed_s: float) -> bool:
        """Check whether it was too old at the time of the call; a later read is as fresh as possible."""
        max_s = terms.max_staleness_s
        return max_s is not None and self._sync.contact.staleness_s(held) - elapsed_s > max_s

    def _apply_outage_policy(self, held: CachedSnapshot, terms: FreshnessPolicy) -> ServedSnapshot:
        snapshot, age_s = held.snapshot, self._sync.contact.staleness_s(held)
        if terms.outage.allows(age_s):
            return ServedSnapshot(snapshot, age_s, outage=True)
        age_s, outage = round(age_s, 3), str(terms.outage)
        heard = snapshot.heard
        if heard is not None and self._sync.contact.away_in_s(held) <= 0:
            silent_s = round(heard.silence_s + self._sync.contact.overdue_s(held), 3)
            raise AuthorityAwayError(snapshot.session, snapshot.authority, silent_s, heard.silence_s, age_s, outage)
        raise StalenessExceededError(snapshot.session, age_s, terms.max_staleness_s or 0.0, outage)

    def _age(self, snapshot: Snapshot) -> float:
        return max(0.0, self.store_time() - snapshot.confirmed_at)


_replicas: WeakSet[Replica] = WeakSet()


def _after_fork() -> None:
    """Reset every replica in a forked child, which has neither its parent's loop nor its connections."""
    for replica in _replicas:
        replica.forget()


after_fork_in_child(_after_fork)
