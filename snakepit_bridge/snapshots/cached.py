"""The cache of a replica: the newest snapshot per session, bounded in number, with the times of its verification.

Only the home loop writes to it. Other threads read single entries without a lock: they see an entry before or after a
write, and a newer snapshot is always stored before the time that verifies it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Snapshot

# A clock that counts suspension, if available: after a suspension the cache must not count as fresh.
clock = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Return seconds of the local monotonic clock, used for every time in this package that isn't the store's."""


@dataclass(slots=True, eq=False)
class CachedSnapshot:
    """A cached session; times are of ``clock``.

    Attributes:
        snapshot: the newest snapshot that was read.
        verified_at: start of the last request to the store that returned or confirmed the snapshot.
        used_at: time of the last use.
        newest: the newest token that was announced.
        queued_at: its position in the order of eviction.
    """

    snapshot: Snapshot
    verified_at: float
    used_at: float
    newest: Token
    queued_at: float


class SnapshotCache:
    """The cached sessions of a process.

    Not one of cachetools: those change their order at each read, so that reading threads would need a lock.

    Args:
        limit: maximum number; beyond that, the least recently used ones are evicted.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[str, CachedSnapshot] = {}
        self._followers: dict[str, set[object]] = {}
        # Bound once, since the hot path is this call and two comparisons.
        self.get = self._held.get

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._held))

    def in_use_since(self, moment: float) -> list[str]:
        """Return the sessions that are followed, or were used since a moment of ``clock``."""
        used = {session for session, held in list(self._held.items()) if held.used_at >= moment}
        return list(used | self._followers.keys())

    def is_in_use(self, session: str, moment: float) -> bool:
        """Check whether a session is followed, or was used since a moment of ``clock``."""
        held = self._held.get(session)
        return session in self._followers or (held is not None and held.used_at >= moment)

    @property
    def followed(self) -> Collection[str]:
        """The sessions that are followed, which need not exist."""
        return self._followers.keys()

    def is_followed(self, session: str) -> bool:
        """Check whether somebody follows a session."""
        return session in self._followers

    def follow(self, session: str, follower: object) -> None:
        """Count a session as in use until ``unfollow``."""
        self._followers.setdefault(session, set()).add(follower)

    def unfollow(self, session: str, follower: object) -> bool:
        """Undo ``follow``, and return whether others follow the session still."""
        followers = self._followers.get(session, set())
        followers.discard(follower)
        if not followers:
            self._followers.pop(session, None)
        return bool(followers)

    def put(self, session: str, snapshot: Snapshot, asked_at: float) -> list[str]:
        """Add a session and return those that were evicted."""
        now = clock()
        self._held[session] = CachedSnapshot(snapshot, asked_at, now, snapshot.token, now)
        return list(self._evict())

    def drop(self, session: str) -> None:
        """Remove a session."""
        self._held.pop(session, None)

    def clear(self) -> None:
        """Remove all sessions."""
        self._held.clear()

    def _evict(self) -> Iterator[str]:
        """Evict the oldest entries, but requeue those that were used since they were queued (second chance).

        This approximates LRU without reordering shared state at each use.
        """
        while len(self._held) > self._limit:
            session = next(iter(self._held))
            held = self._held.pop(session)
            if held.used_at > held.queued_at:
                held.queued_at = held.used_at
                self._held[session] = held
            else:
                yield session
