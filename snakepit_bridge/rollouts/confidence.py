"""Bounds on a mean that hold at every look at once, so that a guard may look every second.

The beta-binomial mixture: after ``n`` values with the sum ``s``, let

    M_n(p) = B(a + s, b + n - s) / (B(a, b) p^s (1 - p)^(n - s))

For values 0 and 1 with the mean ``p`` it is a martingale (Robbins 1970, "Statistical methods related to the law of the
iterated logarithm"). For values anywhere in [0, 1] it is a supermartingale, since the likelihood ratio is convex in
each value (Howard, Ramdas, McAuliffe, Sekhon 2020, "Time-uniform Chernoff bounds via nonnegative supermartingales").
By Ville's inequality it ever reaches ``1 / alpha`` with a probability of ``alpha`` at most, so the means at which it
hasn't are a confidence sequence. It needs nothing but count and sum, which merge by addition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The prior of the mixture. Jeffreys's prior is tight for rare errors, which is what guards are about.
_A = _B = 0.5
_STEPS = 60


@dataclass(frozen=True, slots=True)
class Interval:
    """The means that are still plausible.

    Attributes:
        low, high: its bounds, from 0 to 1.
    """

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ValueSum:
    """Values in [0, 1], such as errors (0 or 1) or scores.

    Attributes:
        count: how many there are.
        total: their sum.
    """

    count: int = 0
    total: float = 0.0

    def __post_init__(self) -> None:
        if not (self.count >= 0 and 0.0 <= self.total <= self.count):
            raise ValueError(f"{self.count} values in [0, 1] can't have the sum {self.total}.")

    def __add__(self, other: ValueSum) -> ValueSum:
        """Return both together."""
        return ValueSum(self.count + other.count, self.total + other.total)

    @property
    def mean(self) -> float:
        """Their mean; 0 if there are none."""
        return self.total / self.count if self.count else 0.0


def bound_mean(sample: ValueSum, alpha: float) -> Interval:
    """Return bounds that contain the true mean at all looks together, with a probability of ``1 - alpha``.

    Args:
        sample: the values so far.
        alpha: the probability that the mean is ever outside.
    """
    if not sample.count:
        return Interval(0.0, 1.0)
    limit = _log_beta(_A + sample.total, _B + sample.count - sample.total) - _log_beta(_A, _B) + math.log(alpha)
    return Interval(_search(sample, limit, 0.0), _search(sample, limit, 1.0))


def _search(sample: ValueSum, limit: float, edge: float) -> float:
    """Return where the likelihood falls to a limit between the sample's mean and an edge, rounded towards the edge."""
    inside, outside = sample.mean, edge
    if _log_likelihood(sample, outside) > limit:
        return edge
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if _log_likelihood(sample, middle) > limit:
            inside = middle
        else:
            outside = middle
    return outside


def _log_likelihood(sample: ValueSum, mean: float) -> float:
    return _times_log(sample.total, mean) + _times_log(sample.count - sample.total, 1 - mean)


def _times_log(factor: float, value: float) -> float:
    if factor == 0:
        return 0.0
    return factor * math.log(value) if value > 0 else -math.inf


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
