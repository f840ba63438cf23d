"""Bounds on means that hold at every look at once, so that a guard may look every second.

The beta mixture: after ``n`` values with the sum ``s``, and with a prior ``w`` over means, let

    M_n(p) = integral of q^s (1 - q)^(n - s) dw(q) / (p^s (1 - p)^(n - s))

For values 0 and 1 with the mean ``p`` it is a martingale (Robbins 1970, "Statistical methods related to the law of the
iterated logarithm"). For values anywhere in [0, 1] it is a supermartingale, since the likelihood ratio is convex in
each value (Howard, Ramdas, McAuliffe, Sekhon 2020, "Time-uniform Chernoff bounds via nonnegative supermartingales").
By Ville's inequality it ever reaches ``1 / alpha`` with a probability of ``alpha`` at most, so the means at which it
hasn't are a confidence sequence. It needs nothing but count and sum, which merge by addition.

Two arms are compared by the product of their martingales at a pair of means, which is a martingale at the true pair,
whatever the order in which the arms' values come. The pairs at which it hasn't reached ``1 / alpha`` are a joint
confidence sequence. Between arms of equal size, harm shows after half as many values as with a bound for each arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_STEPS = 48
# Values have six decimals at most; less than that is left over by subtraction.
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """The values that are still plausible.

    Attributes:
        low, high: the bounds.
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

    @property
    def complement(self) -> ValueSum:
        """What each value lacks to 1."""
        return ValueSum(self.count, self.count - self.total)


@dataclass(frozen=True, slots=True)
class Prior:
    """Where the mean of an arm is expected; the bounds hold wherever it is, and are tightest there.

    Attributes:
        parts: beta distributions: the weight, ``a`` and ``b`` of each; the weights sum up to 1.
    """

    parts: tuple[tuple[float, float, float], ...]

    def log_marginal(self, values: ValueSum) -> float:
        """Return the logarithm of the values' likelihood, averaged over the prior."""
        successes, failures = values.total, values.count - values.total
        logs = [
            math.log(weight) + _log_beta(a + successes, b + failures) - _log_beta(a, b) for weight, a, b in self.parts
        ]
        largest = max(logs)
        return largest + math.log(sum(math.exp(value - largest) for value in logs))


EVEN = Prior(((1.0, 0.5, 0.5),))
"""Jeffreys's prior: good for any mean."""

RARE = Prior(((0.8, 1.0, 30.0), (0.2, 0.5, 0.5)))
"""Tight for means of a few percent, as error rates are, and hardly looser elsewhere."""


def bound_mean(values: ValueSum, alpha: float, prior: Prior = EVEN) -> Interval:
    """Return bounds that contain the true mean at all looks together, with a probability of ``1 - alpha``.

    Args:
        values: the values so far.
        alpha: the probability that the mean is ever outside.
        prior: chosen before the first value.
    """
    if not values.count:
        return Interval(0.0, 1.0)
    limit = prior.log_marginal(values) + math.log(alpha)
    return Interval(_search(values, limit, 0.0), _search(values, limit, 1.0))


def bound_contrast(
    baseline: ValueSum, candidate: ValueSum, factor: float, alpha: float, prior: Prior = EVEN
) -> Interval:
    """Return bounds on the candidate's mean minus ``factor`` times the baseline's, for all looks together.

    Args:
        baseline, candidate: the values of each arm so far.
        factor: positive; 1 for a difference.
        alpha: the probability that the true contrast is ever outside.
        prior: of each arm's mean, chosen before the first value.
    """
    lowest = _lowest_contrast(baseline, candidate, factor, alpha, prior)
    # With 1 - p in place of each p, the highest contrast is 1 - factor minus the lowest one.
    return Interval(lowest, 1 - factor - _lowest_contrast(baseline, candidate, factor, alpha, prior, mirrored=True))


def log_martingale(values: ValueSum, mean: float, prior: Prior) -> float:
    """Return the logarithm of ``M_n(mean)``, infinite if such a mean can't have given the values."""
    return prior.log_marginal(values) - _log_likelihood(values, mean)


def _lowest_contrast(
    baseline: ValueSum, candidate: ValueSum, factor: float, alpha: float, prior: Prior, *, mirrored: bool = False
) -> float:
    """Return the lowest contrast of the joint confidence sequence, or that of the mirrored values.

    The region is convex, since the logarithm of each martingale is. So its lowest contrast is at the pair that
    minimises ``log M(pair) + multiplier * contrast`` for one multiplier, and for each of them that pair is known.
    """
    budget = sum(prior.log_marginal(arm) for arm in (baseline, candidate)) + math.log(alpha)
    if mirrored:
        baseline, candidate = baseline.complement, candidate.complement

    def pair(multiplier: float) -> tuple[float, float]:
        return 1 - _tilted_mean(baseline.complement, factor * multiplier), _tilted_mean(candidate, multiplier)

    def is_inside(multiplier: float) -> bool:
        trusted, tried = pair(multiplier)
        return _log_likelihood(baseline, trusted) + _log_likelihood(candidate, tried) > budget

    trusted, tried = pair(_boundary(is_inside))
    return tried - factor * trusted


def _boundary(is_inside: Callable[[float], bool]) -> float:
    """Return the smallest positive number that is outside, if some multiple of 1 is; else a huge one."""
    inside, outside = 0.0, 1.0
    while is_inside(outside) and outside < 1e18:
        inside, outside = outside, 4 * outside
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if is_inside(middle):
            inside = middle
        else:
            outside = middle
    return outside


def _tilted_mean(values: ValueSum, multiplier: float) -> float:
    """Return the mean ``p`` with the largest ``log likelihood - multiplier * p``, for a positive multiplier."""
    total = values.count + multiplier
    return 2 * values.total / (total + math.sqrt(max(0.0, total * total - 4 * multiplier * values.total)))


def _search(values: ValueSum, limit: float, edge: float) -> float:
    """Return where the likelihood falls to a limit between the values' mean and an edge, rounded towards the edge."""
    inside, outside = values.mean, edge
    if _log_likelihood(values, outside) > limit:
        return edge
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if _log_likelihood(values, middle) > limit:
            inside = middle
        else:
            outside = middle
    return outside


def _log_likelihood(values: ValueSum, mean: float) -> float:
    return _times_log(values.total, mean) + _times_log(values.count - values.total, 1 - mean)


def _times_log(factor: float, value: float) -> float:
    if factor < _NOTHING:
        return 0.0
    return factor * math.log(value) if value > 0 else -math.inf


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
