"""What a process knows of the store's clock and reachability, and how old a cached snapshot is by that.

No authority counts as silent for the time that the store was unreachable, since it may have been confirming meanwhile.
"""

from __future__ import annotations

import math
import time
from collections import deque

from snakepit_bridge.snapshots import STORE
from snakepit_bridge.snapshots.cached import CachedSnapshot, clock
from snakepit_bridge.snapshots.snapshot import AuthoritySign

# Older gaps don't matter: they lie before the last heartbeat of any authority.
_MAX_GAPS = 64


class StoreContact:
    """The moments at which the store answered; where they lie too far apart, there is a gap.

    Args:
        max_gap_s: seconds between two answers that are no gap yet.

    Attributes:
        offset_s: seconds from ``clock`` to the store's time.
    """

    def __init__(self, max_gap_s: float) -> None:
        self.offset_s = time.time() - clock()
        self._max_gap_s = max_gap_s
        self._last = -math.inf
        self._gaps: deque[tuple[float, float]] = deque(maxlen=_MAX_GAPS)

    def note_answer(self, now: float) -> None:
        """Record that the store has just replied."""
        if now - self._last > self._max_gap_s:
            self._gaps.append((self._last, now))
        self._last = max(self._last, now)

    def reachable_s(self, since: float, now: float) -> float:
        """Return how many of the seconds since a moment the store was reachable."""
        gaps = [*self._gaps, (self._last, now)] if now - self._last > self._max_gap_s else [*self._gaps]
        missed_s = sum(max(0.0, min(end, now) - max(begin, since)) for begin, end in gaps)
        return max(0.0, now - since - missed_s)

    def staleness_s(self, held: CachedSnapshot) -> float:
        """Return the seconds since the session's authority was last known to agree with the cached snapshot."""
        if held.snapshot.authority in ("", STORE):
            # The store is its own authority, so each verification counts.
            return clock() - held.verified_at
        return max(0.0, clock() + self.offset_s - held.snapshot.confirmed_at)

    def overdue_s(self, held: CachedSnapshot) -> float:
        """Return by how many seconds the authority's heartbeat is overdue; 0 if it isn't."""
        last = _last_heartbeat(held)
        return 0.0 if last is None else max(0.0, clock() + self.offset_s - last.at - last.silence_s)

    def away_in_s(self, held: CachedSnapshot) -> float:
        """Return the seconds until the authority counts as unreachable, 0 if it does, inf if it never will."""
        last = _last_heartbeat(held)
        if last is None:
            return math.inf
        return max(0.0, last.silence_s - self.reachable_s(last.at - self.offset_s, clock()))


def _last_heartbeat(held: CachedSnapshot) -> AuthoritySign | None:
    return None if held.snapshot.authority in ("", STORE) else held.snapshot.heard
