"""Replica: snapshots by requirement, from this process's memory wherever that is good enough."""

from __future__ import annotations

import math
from typing import cast
from weakref import WeakSet

from snakepit_bridge.exceptions import AuthorityAwayError, StalenessExceededError, StoreUnavailableError
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.process.home_loop import run_home
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.cached import CachedSnapshot, HeldSnapshots, clock
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.snapshots.sync import NOTHING_YET, ReplicaSync

_LATEST = Requirement()
_NO_TERMS = FreshnessPolicy()
# Exact past snapshots that are kept besides: those of the pins and replays of the moment.
_PINNED = 256


class Replica:
    """The snapshots of one process, kept up with the store; usable from every thread, event loop and fork.

    A snapshot that it gives is below no head that was published more than ``watch_lease`` before the call, meets the
    requirement, and is never older than one given before. While it hears from the store it asks nothing per call.

    Args:
        store: what it follows.
        wait_s: seconds to wait for a revision that isn't there yet.
        watch_lease: seconds for which what was heard from the store is relied on.
        max_sessions: how many sessions are held at most.
    """

    def __init__(
        self, store: SnapshotStore, wait_s: float = 5.0, *, watch_lease: float = 1.0, max_sessions: int = 10_000
    ) -> None:
        self._store = store
        self._wait_s = wait_s
        self._lease_s = watch_lease
        self._max_sessions = max_sessions
        self.forget()
        _replicas.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, {len(self._held)} sessions)"

    def peek(self, session: str) -> Snapshot | None:
        """Returns the newest snapshot if the process holds one that needs no look at the store, else None."""
        held = self._get(session)
        if held is None:
            return None
        now = clock()
        if now > held.verified_at + self._lease_s or now > self._follower.connected_until:
            return None
        held.used_at = now
        return held.snapshot

    async def snapshot(self, session: str, requirement: Requirement = _LATEST) -> Snapshot:
        """Returns a snapshot that meets the requirement.

        The default session needs no publish: it is empty until its first one.

        Raises:
            SessionNotFoundError: nobody has published the session.
            RevisionNotReachedError: it did not come to the required token within the wait.
            RevisionLostError: the required token was trimmed or lost.
            StoreUnavailableError: the store is away.
        """
        return self._at_hand(session, requirement) or await run_home(self._meet(session, requirement))

    async def serve(
        self, session: str, requirement: Requirement = _LATEST, terms: FreshnessPolicy = _NO_TERMS
    ) -> ServedSnapshot:
        """Returns a snapshot that meets the requirement on these terms, and how old it is.

        Raises:
            what ``snapshot`` raises.
            AuthorityAwayError: the session's authority is away, and the outage contract doesn't allow what is held.
            StalenessExceededError: it isn't, but hasn't confirmed the session for longer than the terms allow.
        """
        at_hand = self._at_hand(session, requirement)
        if at_hand is not None:
            if requirement.kind == "exactly":
                return ServedSnapshot(at_hand, self._age(at_hand))
            held = self._get(session)
            if held is not None and self._fresh(held, terms):
                return ServedSnapshot(at_hand, self._follower.staleness(held))
        return await run_home(self._serve(session, requirement, terms))

    def lag(self, session: str) -> int | None:
        """Returns by how many revisions the process is known to be behind the store; None if it holds no snapshot."""
        held = self._get(session)
        if held is None:
            return None
        token, newest = held.snapshot.token, held.newest
        return max(1, newest.revision - token.revision) if newest > token else 0

    def staleness(self, session: str) -> float:
        """Returns the seconds since the authority was last known to agree with what the process holds; inf for nothing.

        For a session that is published in the store, that is since the store was last asked.
        """
        held = self._get(session)
        return math.inf if held is None else self._follower.staleness(held)

    @property
    def connected(self) -> bool:
        """Whether the store was heard from within the lease, so that hints can be relied on."""
        return clock() <= self._follower.connected_until

    def holds(self) -> dict[str, Token]:
        """Returns the token of every session that the process holds."""
        return {session: held.snapshot.token for session in self._held if (held := self._get(session)) is not None}

    async def aclose(self) -> None:
        """Stops following and forgets what it holds; it begins anew if it is used again."""
        await run_home(self._stop())

    async def _stop(self) -> None:
        follower = self._follower
        self.forget()
        await follower.aclose()

    def forget(self) -> None:
        """Begins anew with nothing held, as a forked child must."""
        self._held = HeldSnapshots(self._max_sessions)
        self._get = self._held.get
        self._pinned: dict[tuple[str, Token], Snapshot] = {}
        self._follower = ReplicaSync(self._store, self._held, self._lease_s)

    def _at_hand(self, session: str, requirement: Requirement) -> Snapshot | None:
        token = requirement.token
        if token is None:
            return self.peek(session)
        if requirement.kind == "exactly":
            # What a token names never changes, so nobody has to be asked.
            held = self._get(session)
            if held is not None and held.snapshot.token == token:
                held.used_at = clock()
                return held.snapshot
            return self._pinned.get((session, token))
        snapshot = self.peek(session)
        return snapshot if snapshot and snapshot.token != NOTHING_YET and snapshot.meets(token) else None

    async def _meet(self, session: str, requirement: Requirement) -> Snapshot:
        if requirement.kind == "exactly":
            return await self._read_at(session, cast(Token, requirement.token))
        return (await self._follow(session, requirement)).snapshot

    async def _follow(self, session: str, requirement: Requirement) -> CachedSnapshot:
        self._follower.start()
        if requirement.token is None:
            held = await self._follower.read(session, clock() - self._lease_s)
        else:
            held = await self._follower.reach(session, requirement.token, self._wait_s)
        held.used_at = clock()
        return held

    async def _read_at(self, session: str, token: Token) -> Snapshot:
        snapshot = await self._store.read_at(session, token)
        self._pinned[session, token] = snapshot
        while len(self._pinned) > _PINNED:
            self._pinned.pop(next(iter(self._pinned)))
        return snapshot

    async def _serve(self, session: str, requirement: Requirement, terms: FreshnessPolicy) -> ServedSnapshot:
        try:
            if requirement.kind == "exactly":
                snapshot = await self._meet(session, requirement)
                return ServedSnapshot(snapshot, self._age(snapshot))
            return await self._confirmed(await self._follow(session, requirement), terms)
        except StoreUnavailableError as away:
            return self._from_memory(session, requirement, terms, away)

    def _from_memory(
        self, session: str, requirement: Requirement, terms: FreshnessPolicy, away: StoreUnavailableError
    ) -> ServedSnapshot:
        """The store is away: what is held is served if it meets the requirement and isn't older than allowed."""
        held = self._get(session)
        if held is None or requirement.kind == "exactly" or terms.outage.max_age_s is None:
            raise away
        if requirement.token is not None and not held.snapshot.meets(requirement.token):
            raise away
        age_s = self._follower.staleness(held)
        if not terms.outage.allows(age_s):
            raise StoreUnavailableError(
                away.url, f"{away.problem}, and session '{session}' was last confirmed {age_s:.1f} s ago"
            ) from away
        held.used_at = clock()
        return ServedSnapshot(held.snapshot, age_s, store_away=True, outage=True)

    async def _confirmed(self, held: CachedSnapshot, terms: FreshnessPolicy) -> ServedSnapshot:
        """Return what is held if it is confirmed as the terms want; wait for that as long as it may come."""
        session, started = held.snapshot.session, clock()
        if not self._fresh(held, terms):
            held = await self._follower.read(session, started)
        while not self._fresh(held, terms, elapsed_s := clock() - started):
            overdue = self._stale(held, terms, elapsed_s)
            left_s = min(self._follower.away_in_s(held), self._wait_s - elapsed_s if overdue else math.inf)
            if left_s <= 0:
                return self._by_contract(held, terms)
            await self._follower.changed(session, left_s)
            held = await self._follower.read(session, clock() - self._lease_s)
        return ServedSnapshot(held.snapshot, self._follower.staleness(held))

    def _fresh(self, held: CachedSnapshot, terms: FreshnessPolicy, elapsed_s: float = 0.0) -> bool:
        return not self._follower.silent_s(held) and not self._stale(held, terms, elapsed_s)

    def _stale(self, held: CachedSnapshot, terms: FreshnessPolicy, elapsed_s: float) -> bool:
        """Tell whether it was too old at the call: a read that was asked for after it is as fresh as can be."""
        most_s = terms.max_staleness_s
        return most_s is not None and self._follower.staleness(held) - elapsed_s > most_s

    def _by_contract(self, held: CachedSnapshot, terms: FreshnessPolicy) -> ServedSnapshot:
        snapshot, age_s = held.snapshot, self._follower.staleness(held)
        if terms.outage.allows(age_s):
            return ServedSnapshot(snapshot, age_s, outage=True)
        age_s, outage = round(age_s, 3), str(terms.outage)
        heard = snapshot.heard
        if heard is not None and self._follower.away_in_s(held) <= 0:
            silent_s = round(heard.silence_s + self._follower.silent_s(held), 3)
            raise AuthorityAwayError(snapshot.session, snapshot.authority, silent_s, heard.silence_s, age_s, outage)
        raise StalenessExceededError(snapshot.session, age_s, terms.max_staleness_s or 0.0, outage)

    def _age(self, snapshot: Snapshot) -> float:
        return max(0.0, clock() + self._follower.store_offset - snapshot.confirmed_at)


_replicas: WeakSet[Replica] = WeakSet()


def _after_fork() -> None:
    """A child has neither its parent's loop nor its connections; it holds nothing until it has asked by itself."""
    for replica in _replicas:
        replica.forget()


after_fork_in_child(_after_fork)
