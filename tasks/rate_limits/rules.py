"""Rules: which limits concern a call, from the LM profiles' file and from variables, as the buckets that enforce them.

A variable of the session ``dspex.fleet`` limits a profile for everybody; one of a task's own session limits that
session, over all profiles. Both are read from the process's replica, so that a change is in force once it is told.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from snakepit_bridge.snapshots.snapshot import Snapshot

FLEET_SESSION = "dspex.fleet"
"""The session whose variables steer the whole fleet."""
PREFIX = "dspex.limits."
UNLIMITED = -1
"""What a variable says to lift a limit that the profiles' file sets."""

# A bucket refills a little slower than the quota, and holds a quarter of a second of it at most: what is on its way
# for a moment, and what comes in a burst, still fits in the provider's own window.
_PACE = 0.975
_BURST_MS = 250

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LimitValues:
    """What may be used; None doesn't limit."""

    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    concurrency: float | None = None
    spend_per_hour: float | None = None

    def override(self, said: Mapping[str, float]) -> LimitValues:
        """Return these limits with those that variables say instead."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return LimitValues(**{name: _resolve_limit(said.get(name, limit)) for name, limit in own.items()})


def _resolve_limit(limit: float | None) -> float | None:
    return None if limit is None or limit == UNLIMITED else limit


@dataclass(frozen=True, slots=True)
class Price:
    """What a profile's tokens cost, per million."""

    input_per_million: float = 0.0
    output_per_million: float = 0.0

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return the price of so many tokens."""
        return (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / 1e6


@dataclass(frozen=True)
class Bucket:
    """One limit as Redis keeps it.

    Attributes:
        name: whose and what, unique among all.
        whose: ``p`` for a profile's, ``s`` for a session's.
        counts: which cost of a call: 1 the request itself, 2 its tokens, 3 its money.
        window_ms: over how long it counts; 0 counts the calls under way.
        limit: how much is allowed.
        paced: whether the allowance comes evenly, or all at once.
    """

    name: str
    scope: str
    unit: int
    window_ms: int
    limit: float
    paced: bool = True

    @cached_property
    def script_args(self) -> tuple[Any, ...]:
        """What scripts are told of it."""
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
    found = ((kind, getattr(limits, kind[0])) for kind in _KINDS)
    return tuple(
        Bucket(f"{whose}:{of}:{name}", whose, counts, window_ms, limit, paced)
        for (name, counts, window_ms, paced), limit in found
        if limit is not None
    )


@dataclass
class Rules:
    """The rules of one process.

    Args:
        limits: of each profile, as the file has them.
    """

    limits: Mapping[str, LimitValues] = field(default_factory=dict[str, LimitValues])
    _cache: dict[tuple[str, str], tuple[object, tuple[Bucket, ...]]] = field(
        default_factory=dict[tuple[str, str], tuple[object, tuple[Bucket, ...]]], repr=False
    )

    def buckets_for(self, profile: str, fleet: Snapshot | None, session: Snapshot | None) -> tuple[Bucket, ...]:
        """Return the buckets that a call to a profile under a session has to pass."""
        return self._profile_buckets(profile, fleet) + self._session_buckets(session)

    def _profile_buckets(self, profile: str, fleet: Snapshot | None) -> tuple[Bucket, ...]:
        known = self._cache.get(("p", profile))
        if known is None or known[0] is not (fleet and fleet.variables):
            said = _read_limits(fleet, f"{PREFIX}{profile}.")
            limits = self.limits.get(profile, _NO_LIMITS).override(said)
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
        while len(self._cache) > _MAX_CACHED:
            self._cache.pop(next(iter(self._cache)))
        return known


def _read_limits(snapshot: Snapshot | None, prefix: str) -> dict[str, float]:
    """The limits that a snapshot's variables set. What isn't a limit is told of, and the file's own limit holds on."""
    said: dict[str, float] = {}
    for kind, *_ in _KINDS if snapshot else ():
        variable = snapshot.variables.get(f"{prefix}{kind}") if snapshot else None
        if variable is None or variable.value is None:
            continue
        value = variable.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_limit(value):
            _log.error(
                "Variable '%s%s' is %r, which is no limit: it must be a number from 0 up, or %d for no limit. "
                "It is ignored until then.",
                prefix, kind, value, UNLIMITED,
            )  # fmt: skip
            continue
        said[kind] = float(value)
    return said


def _is_limit(value: float) -> bool:
    return value == UNLIMITED or (value >= 0 and math.isfinite(value))


_NO_LIMITS = LimitValues()
_MAX_CACHED = 20_000
