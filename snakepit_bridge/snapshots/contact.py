"""Contact: since when a process hears from the store, so that it blames nobody for what it couldn't hear."""

from __future__ import annotations

import math
from collections import deque

# Of older gaps nobody asks: they lie before the last sign of any authority that isn't away by far.
_GAPS = 64


class Contact:
    """The moments at which the store answered; where they lie too far apart, there is a gap.

    Args:
        most_s: seconds between two answers that are no gap yet.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._last = -math.inf
        self._gaps: deque[tuple[float, float]] = deque(maxlen=_GAPS)

    def answered(self, now: float) -> None:
        """Note that the store has just answered."""
        if now - self._last > self._most_s:
            self._gaps.append((self._last, now))
        self._last = max(self._last, now)

    def heard_s(self, since: float, now: float) -> float:
        """Return for how many of the seconds since a moment the store could be heard."""
        gaps = [*self._gaps, (self._last, now)] if now - self._last > self._most_s else [*self._gaps]
        missed_s = sum(max(0.0, min(end, now) - max(begin, since)) for begin, end in gaps)
        return max(0.0, now - since - missed_s)
