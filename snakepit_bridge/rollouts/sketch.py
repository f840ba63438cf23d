"""Distributions as counts in log-spaced buckets: they merge by addition, and each value is known within 2 %.

The buckets are those of DDSketch (Masson, Rim, Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees"). Bucket ``i`` holds the values above ``GAMMA ** (i - 1)`` up to ``GAMMA ** i``, and ``z``
those that aren't positive. A bucket's name is part of a field's name in Redis, so that a script can increment it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

Buckets = Mapping[str, int]
"""How many values there are in each bucket, by the bucket's name."""

RELATIVE_ERROR = 0.02
"""By which part of itself a value may differ from its bucket's representative."""

GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
"""The ratio of a bucket's upper edge to its lower edge."""

MAX_INDEX = 1_000
"""The largest and, negated, the smallest index; values beyond are counted there. It's far from any time or price."""

ZERO = "z"
_LOG_GAMMA = math.log(GAMMA)


def bucket_of(value: float) -> str:
    """Return the name of a value's bucket.

    Args:
        value: a quantity that is usually positive, such as milliseconds or microdollars.

    Raises:
        ValueError: it is no number.
    """
    if math.isnan(value):
        raise ValueError("A value that is counted must be a number; got NaN.")
    if value <= 0:
        return ZERO
    if math.isinf(value):
        return str(MAX_INDEX)
    return str(max(-MAX_INDEX, min(MAX_INDEX, math.ceil(math.log(value) / _LOG_GAMMA))))


def index_of(name: str) -> int:
    """Return a bucket's place among all, by its name; that of ``z`` is below every other.

    Raises:
        ValueError: it is no bucket's name.
    """
    index = -MAX_INDEX - 1 if name == ZERO else int(name)
    if abs(index) > MAX_INDEX and name != ZERO:
        raise ValueError(f"A bucket's index is from {-MAX_INDEX} to {MAX_INDEX}; got {index}.")
    return index


def upper_edge(index: int) -> float:
    """Return the largest value of a bucket."""
    return GAMMA**index if index >= -MAX_INDEX else 0.0


def representative(index: int) -> float:
    """Return the value that is within ``RELATIVE_ERROR`` of all values of a bucket."""
    return 2 * GAMMA**index / (GAMMA + 1) if index >= -MAX_INDEX else 0.0


def sort_buckets(buckets: Buckets) -> list[tuple[int, int]]:
    """Return the indexes of the buckets that aren't empty, in order, each with its count."""
    return sorted((index_of(name), count) for name, count in buckets.items() if count > 0)


def count_values(buckets: Buckets) -> int:
    """Return how many values were counted."""
    return sum(count for count in buckets.values() if count > 0)


def merge(sketches: Iterable[Buckets]) -> dict[str, int]:
    """Return the sketch of all values together."""
    merged: dict[str, int] = {}
    for buckets in sketches:
        for name, count in buckets.items():
            merged[name] = merged.get(name, 0) + count
    return merged


def count_above(buckets: Buckets, limit: float) -> int:
    """Return how many values are above a limit; those in the limit's own bucket aren't counted.

    Args:
        buckets: the values.
        limit: in their unit.
    """
    edge = index_of(bucket_of(limit))
    return sum(count for index, count in sort_buckets(buckets) if index > edge)


def share_above(buckets: Buckets, limit: float) -> float:
    """Return the share of the values that are above a limit, from 0 to 1; 0 if there are no values.

    Args:
        buckets: the values.
        limit: in their unit; which values are above it is known within ``2 * RELATIVE_ERROR``.
    """
    total = count_values(buckets)
    return count_above(buckets, limit) / total if total else 0.0


def quantile(buckets: Buckets, level: float) -> float | None:
    """Return a quantile within ``RELATIVE_ERROR``, or None if there are no values.

    Args:
        buckets: the values.
        level: from 0 to 1; 0.95 is the value that 95 % don't exceed.
    """
    ordered = sort_buckets(buckets)
    rank = level * (sum(count for _, count in ordered) - 1)
    seen = 0
    for index, count in ordered:
        seen += count
        if seen > rank:
            return representative(index)
    return None


def mean_capped(buckets: Buckets, cap: float) -> float:
    """Return the mean of the values, each cut off at a cap, within ``RELATIVE_ERROR``; 0 if there are no values.

    Args:
        buckets: the values.
        cap: in their unit.
    """
    total = count_values(buckets)
    return (
        sum(count * min(cap, representative(index)) for index, count in sort_buckets(buckets)) / total if total else 0.0
    )
