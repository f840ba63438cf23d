"""Whether variables that are missing are gone: after a restart of Elixir they come back one by one."""

from __future__ import annotations

# Names that keep coming and going can't hold a session's other changes back for ever.
_AT_MOST = 10


class DeletionGuard:
    """The names that a session misses, and for how long.

    Args:
        settle_s: seconds that a set of missing names must stay the same to be believed.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._missing: frozenset[str] = frozenset()
        self._unchanged_since = self._missing_since = 0.0

    def allows(self, missing: frozenset[str], now: float) -> bool:
        """Tells whether a look that misses these names, begun at ``now``, may be published."""
        if not missing:
            self._missing = missing
            return True
        if not self._missing:
            self._missing_since = now
        if missing != self._missing:
            self._missing, self._unchanged_since = missing, now
        return now - self._unchanged_since >= self._settle_s or now - self._missing_since >= _AT_MOST * self._settle_s
