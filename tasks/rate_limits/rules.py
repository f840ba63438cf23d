"""The limits of a call, from the LM profiles' file and from variables, as the buckets that enforce them.

A variable of the session ``dspex.fleet`` limits a profile for the whole fleet; one of a task's own session limits that
session, over all profiles. Both are read from the process's replica, so a change applies once the replica has it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from cachetools import LRUCache

from snakepit_bridge.snapshots.snapshot import Snapshot

FLEET_SESSION = "dspex.fleet"
"""The session whose variables apply to the whole fleet."""
PREFIX = "dspex.limits."
UNLIMITED = -1
"""The value of a variable that removes a limit of the profiles' file."""

# A bucket refills slightly slower than the quota and holds at most a quarter of a second of it, so that network delays
# and bursts stay within the provider's own window.
_PACE = 0.975
_BURST_MS = 250

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LimitValues:
    """The limits of a profile or a session; None is unlimited."""

    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    concurrency: float | None = None
    spend_per_hour: float | None = None

    def override(self, values: Mapping[str, float]) -> LimitValues:
        """Return these limits, overridden by the values of variables."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return LimitValues(**{name: _resolve_limit(values.get(name, limit)) for name, limit in own.items()})


def _resolve_limit(limit: float | None) -> float | None:
    return None if limit is None or limit == UNLIMITED else limit


@dataclass(frozen=True)
class Bucket:
    """One limit as Redis keeps it.

    Attributes:
        name: unique name, with its owner and its kind.
        scope: ``p`` for a profile's, ``s`` for a session's.
        unit: what it counts: 1 requests, 2 tokens, 3 spend.
        window_ms: length of its window; 0 counts concurrent calls.
        limit: how much is allowed.
        paced: whether it refills evenly over the window.
    """

    name: str
    scope: str
    unit: int
    window_ms: int
    limit: float
    paced: bool = True

    @cached_property
    def script_args(self) -> tuple[Any, ...]:
        """Its arguments for Lua scripts."""
        rate = self.limit / self.window_ms * _PACE if self.window_ms and self.paced else 0.0
        return (self.name, self.scope, self.unit, self.window_ms, self.limit, rate, max(1.0, rate * _BURST_MS))


_MINUTE_MS, _HOUR_MS = 60_000, 3_600_000
_KINDS = (
    ("requests_per_min", 1, _MINUTE_MS, True),
    ("tokens_per_min", 2, _MINUTE_MS, True),
    ("concurrency", 1, 0, False),
    ("spend_per_hour", 3, _HOUR_MS, False),
)


def build_buckets(whose: str, of: str, limits: LimitValues) -> tuple[Bucket, ...]:
    """Return the buckets of one profile's (``p``) or one session's (``s``) limits."""
    limited = ((kind, getattr(limits, kind[0])) for kind in _KINDS)
    return tuple(
        Bucket(f"{whose}:{of}:{name}", whose, counts, window_ms, limit, paced)
        for (name, counts, window_ms, paced), limit in limited
        if limit is not None
    )


@dataclass
class Rules:
    """The limits that apply to calls of one process.

    Args:
        limits: the limits of each profile from the profiles' file.
    """

    limits: Mapping[str, LimitValues] = field(default_factory=dict[str, LimitValues])
    _cache: LRUCache[tuple[str, str], tuple[object, tuple[Bucket, ...]]] = field(
        default_factory=lambda: LRUCache(_MAX_CACHED), repr=False
    )

    def buckets_for(self, profile: str, fleet: Snapshot | None, session: Snapshot | None) -> tuple[Bucket, ...]:
        """Return the buckets of a call to a profile under a session."""
        return self._profile_buckets(profile, fleet) + self._session_buckets(session)

    def _profile_buckets(self, profile: str, fleet: Snapshot | None) -> tuple[Bucket, ...]:
        known = self._cache.get(("p", profile))
        if known is None or known[0] is not (fleet and fleet.variables):
            values = _read_limits(fleet, f"{PREFIX}{profile}.")
            limits = self.limits.get(profile, _NO_LIMITS).override(values)
            known = self._remember("p", profile, fleet and fleet.variables, limits)
        return known[1]

    def _session_buckets(self, session: Snapshot | None) -> tuple[Bucket, ...]:
        if session is None:
            return ()
        known = self._cache.get(("s", session.session))
        if known is None or known[0] is not session.variables:
            limits = LimitValues(
                **{name: _resolve_limit(value) for name, value in _read_limits(session, PREFIX).items()}
            )
            known = self._remember("s", session.session, session.variables, limits)
        return known[1]

    def _remember(self, whose: str, of: str, source: object, limits: LimitValues) -> tuple[object, tuple[Bucket, ...]]:
        known = self._cache[whose, of] = (source, build_buckets(whose, of, limits))
        return known


def _read_limits(snapshot: Snapshot | None, prefix: str) -> dict[str, float]:
    """Return the limits that a snapshot's variables set; log invalid values and ignore them."""
    limits: dict[str, float] = {}
    for kind, *_ in _KINDS if snapshot else ():
        variable = snapshot.variables.get(f"{prefix}{kind}") if snapshot else None
        if variable is None or variable.value is None:
            continue
        value = variable.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_limit(value):
            _log.error(
                "Variable '%s%s' is %r, which is no limit: it must be a number from 0 up, or %d for no limit. "
                "It is ignored.",
                prefix, kind, value, UNLIMITED,
            )  # fmt: skip
            continue
        limits[kind] = float(value)
    return limits


def _is_limit(value: float) -> bool:
    return value == UNLIMITED or (value >= 0 and math.isfinite(value))


_NO_LIMITS = LimitValues()
_MAX_CACHED = 20_000
