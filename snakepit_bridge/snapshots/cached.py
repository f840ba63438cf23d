"""What a process holds: one snapshot per session, bounded in number, with the times that tell how far to trust it.

Only the home loop changes it. Other threads read single entries, which is safe without a lock: they see an entry before
or after a change, and a newer snapshot is always put in place before the time that vouches for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Snapshot

# Where there is one, a clock that counts suspension: a machine that slept must not trust what it held before.
clock = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds of this process's own clock, for every time in this package that isn't the store's."""


@dataclass(slots=True, eq=False)
class CachedSnapshot:
    """One session.

    Attributes:
        snapshot: the newest snapshot that was read.
        verified_at: when the store was asked that answered with this snapshot, or that it still stands.
        used_at: when somebody last asked for it.
        newest: the newest token that was heard of.
        queued_at: its place in the order of eviction.
    """

    snapshot: Snapshot
    verified_at: float
    used_at: float
    newest: Token
    queued_at: float


class HeldSnapshots:
    """The sessions that a process holds.

    Args:
        limit: how many; beyond that, those that nobody used lately go.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[str, CachedSnapshot] = {}
        # Bound once: the warm path is this call and two comparisons.
        self.get = self._held.get

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._held))

    def used_since(self, moment: float) -> list[str]:
        """Returns the sessions that somebody asked for since a moment."""
        return [session for session, held in list(self._held.items()) if held.used_at >= moment]

    def put(self, session: str, snapshot: Snapshot, asked_at: float) -> list[str]:
        """Holds one more session; returns those that it pushed out."""
        now = clock()
        self._held[session] = CachedSnapshot(snapshot, asked_at, now, snapshot.token, now)
        return list(self._pushed_out())

    def drop(self, session: str) -> None:
        """Lets a session go."""
        self._held.pop(session, None)

    def clear(self) -> None:
        """Lets all sessions go."""
        self._held.clear()

    def _pushed_out(self) -> Iterator[str]:
        """The oldest go first, but one that was used since it was queued is queued once more.

        Nearly the order of last use, without a write to shared state at each use.
        """
        while len(self._held) > self._limit:
            session = next(iter(self._held))
            held = self._held.pop(session)
            if held.used_at > held.queued_at:
                held.queued_at = held.used_at
                self._held[session] = held
            else:
                yield session
