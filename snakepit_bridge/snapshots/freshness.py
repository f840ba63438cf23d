"""Freshness: how old a snapshot a task accepts, how old it is, and what happens if no fresh one can be had.

Its age is counted by the store's clock, of which a process knows from the store's answers. No authority counts as
silent for the time that the store was unreachable, since it may have been confirming meanwhile.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import Self

from snakepit_bridge.snapshots import STORE
from snakepit_bridge.snapshots.cached import CachedSnapshot, clock
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Snapshot

# Older gaps don't matter: they lie before the last heartbeat of any authority.
_MAX_GAPS = 64
_SERVE_STALE = re.compile(r"serve_stale(?:\(([^()]+)\)|=(.+))")


@dataclass(frozen=True, slots=True)
class OutagePolicy:
    """What to do if no snapshot is as fresh as a task requires.

    That is if the store or the session's authority is unreachable, or the session hasn't been confirmed for
    ``max_staleness_s``. ``max_age_s`` None fails the task; a number serves the cached snapshot if it was confirmed at
    most that many seconds ago.
    """

    max_age_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_age_s is not None and not self.max_age_s >= 0:
            raise ValueError(f"serve_stale takes seconds from 0 on; got {self.max_age_s}")

    @classmethod
    def serve_stale(cls, max_age_s: float) -> Self:
        """Return the policy that serves the cached snapshot if it is at most that many seconds old."""
        return cls(float(max_age_s))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``fail``, ``serve_stale(SECONDS)`` or ``serve_stale=SECONDS``.

        Raises:
            ValueError: the text is none of these.
        """
        if text == "fail":
            return cls()
        match = _SERVE_STALE.fullmatch(text)
        if match is None:
            raise ValueError(f"An outage contract reads fail or serve_stale(SECONDS); got {text!r}")
        return cls(float(match[1] or match[2]))

    def allows(self, age_s: float) -> bool:
        """Check whether a snapshot that was confirmed that many seconds ago may be served."""
        return self.max_age_s is not None and age_s <= self.max_age_s

    def __str__(self) -> str:
        return "fail" if self.max_age_s is None else f"serve_stale({self.max_age_s:g})"


FAIL = OutagePolicy()


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
    """How fresh a task's snapshot must be.

    Attributes:
        outage: what to do if the store or the authority is unreachable, or ``max_staleness_s`` is exceeded.
        max_staleness_s: maximum seconds since the authority last confirmed; None for the limit beyond which the
            authority counts as unreachable.
    """

    outage: OutagePolicy = FAIL
    max_staleness_s: float | None = None

    @classmethod
    def of(
        cls, max_staleness: float | None = None, outage: str | OutagePolicy | None = None, default: OutagePolicy = FAIL
    ) -> Self:
        """Return the policy of a request, with the default for what it leaves out.

        Raises:
            ValueError: the outage policy is invalid, or the seconds are negative.
        """
        if max_staleness is not None and not max_staleness >= 0:
            raise ValueError(f"max_staleness is seconds from 0 on; got {max_staleness}")
        policy = default if outage is None else outage
        return cls(policy if isinstance(policy, OutagePolicy) else OutagePolicy.parse(policy), max_staleness)


@dataclass(frozen=True, slots=True)
class ServedSnapshot:
    """The snapshot that a task was served, and its age.

    Attributes:
        snapshot: the snapshot.
        staleness_s: seconds since the session's authority was last known to agree with it.
        store_away: whether the store was unreachable, so that it comes from the cache.
        outage: whether it is older than the task requires, and the outage policy accepted it.
    """

    snapshot: Snapshot
    staleness_s: float
    store_away: bool = False
    outage: bool = False


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
