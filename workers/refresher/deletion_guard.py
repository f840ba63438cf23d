"""Delay deletions until they are certain: after a restart of Elixir, variables come back one by one."""

from __future__ import annotations

# In units of ``settle_s``: names that keep coming and going can't delay a session's other changes for ever.
_MAX_DELAY_FACTOR = 10


class DeletionGuard:
    """Tracks which variables a session lacks, and for how long.

    Args:
        settle_s: seconds for which the set of missing names must stay the same before it is published.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._missing: frozenset[str] = frozenset()
        self._unchanged_since = self._missing_since = 0.0

    def allows(self, missing: frozenset[str], now: float) -> bool:
        """Check whether a reading that lacks these names may be published.

        Args:
            missing: names that the store holds and the reading lacks.
            now: when the reading began, by ``boot_clock``.
        """
        if not missing:
            self._missing = missing
            return True
        if not self._missing:
            self._missing_since = now
        if missing != self._missing:
            self._missing, self._unchanged_since = missing, now
        return (
            now - self._unchanged_since >= self._settle_s
            or now - self._missing_since >= _MAX_DELAY_FACTOR * self._settle_s
        )
