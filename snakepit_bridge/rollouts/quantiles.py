"""Bounds on a quantile, and on the ratio of two arms' quantiles, that hold at every look at once.

For the true quantile ``Q`` of level ``q``, "is above Q" is a value 0 or 1 with the known mean ``1 - q``. So the
martingale of ``confidence.py`` at that mean, fed with the number of values above ``Q``, bounds every look; the ``Q`` at
which it hasn't reached ``1 / alpha`` are a confidence sequence for the quantile (Howard, Ramdas 2022, "Sequential
estimation of quantiles with applications to A/B testing and best-arm identification"). The product over both arms
bounds a pair of quantiles. Nothing has to be fixed beforehand: the bounds are a function of the two sketches alone.

A sketch tells only the bucket of a quantile, and the number of values above it only up to those of that bucket. Of what
is possible, the bounds take what is least against the candidate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from snakepit_bridge.rollouts.confidence import RARE, Interval, ValueSum, log_martingale
from snakepit_bridge.rollouts.sketch import MAX_INDEX, Buckets, sort_buckets, upper_edge

_EVERYWHERE = Interval(0.0, math.inf)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The evidence against a range of buckets that no value separates: their quantile would be in one of them.

    Attributes:
        first, last: the indexes of its buckets.
        log: the logarithm of the martingale.
    """

    first: int
    last: int
    log: float


def bound_quantile(buckets: Buckets, level: float, alpha: float) -> Interval:
    """Return bounds that contain the true quantile at all looks together, with a probability of ``1 - alpha``.

    Args:
        buckets: the values so far.
        level: from 0 to 1, such as 0.95.
        alpha: the probability that the quantile is ever outside.
    """
    plausible = [part for part in _weigh(buckets, level) if part.log < -math.log(alpha)]
    return Interval(_lower_edge(plausible[0].first), _upper_edge(plausible[-1].last)) if plausible else _EVERYWHERE


def bound_quantile_ratio(baseline: Buckets, candidate: Buckets, level: float, alpha: float) -> Interval:
    """Return bounds on the candidate's quantile divided by the baseline's, for all looks together.

    Args:
        baseline, candidate: the values of each arm so far.
        level: of the quantile.
        alpha: the probability that the true ratio is ever outside.
    """
    trusted, tried = list(_weigh(baseline, level)), list(_weigh(candidate, level))
    limit = -math.log(alpha)
    lowest, highest = math.inf, 0.0
    for left in _plausible(trusted, limit - min(part.log for part in tried)):
        for right in _plausible(tried, limit - left.log):
            lowest = min(lowest, _divide(_lower_edge(right.first), _upper_edge(left.last), of_zeros=0.0))
            highest = max(highest, _divide(_upper_edge(right.last), _lower_edge(left.first), of_zeros=math.inf))
    return Interval(lowest, highest) if lowest <= highest else _EVERYWHERE


def _plausible(parts: list[_Evidence], limit: float) -> list[_Evidence]:
    return [part for part in parts if part.log < limit]


def _weigh(buckets: Buckets, level: float) -> Iterator[_Evidence]:
    """Iterate over all buckets in order, in ranges for which the evidence is the same."""
    ordered = sort_buckets(buckets)
    count = sum(number for _, number in ordered)
    above, next_index = count, -MAX_INDEX - 1
    for index, number in ordered:
        if next_index < index:
            yield _Evidence(next_index, index - 1, _log(count, above, above, level))
        yield _Evidence(index, index, _log(count, above - number, above, level))
        above, next_index = above - number, index + 1
    if next_index <= MAX_INDEX:
        yield _Evidence(next_index, MAX_INDEX, _log(count, 0, 0, level))


def _log(count: int, fewest: int, most: int, level: float) -> float:
    """Return the martingale's logarithm for the number of values above, of the possible ones, that is least odd."""
    if not count:
        return 0.0
    above = min(max(count * (1 - level), fewest), most)
    return log_martingale(ValueSum(count, above), 1 - level, RARE)


def _divide(numerator: float, denominator: float, *, of_zeros: float) -> float:
    if not denominator:
        return math.inf if numerator else of_zeros
    return numerator / denominator


def _lower_edge(index: int) -> float:
    return upper_edge(index - 1) if index > -MAX_INDEX else 0.0


def _upper_edge(index: int) -> float:
    return upper_edge(index) if index < MAX_INDEX else math.inf
