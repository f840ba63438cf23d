"""Reachability of the store over time, so that no authority counts as silent while the store was unreachable."""

from __future__ import annotations

import math
from collections import deque

# Older gaps don't matter: they lie before the last heartbeat of any authority.
_MAX_GAPS = 64


class StoreContact:
    """The moments at which the store answered; where they lie too far apart, there is a gap.

    Args:
        most_s: seconds between two answers that are no gap yet.
    """

    def __init__(self, max_gap_s: float) -> None:
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
