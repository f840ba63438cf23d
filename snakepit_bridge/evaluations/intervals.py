"""Intervals for the mean of an evaluation's scores, and for the mean difference of two evaluations of one dataset.

Scores of 0 and 1 get Wilson's interval (Wilson 1927, "Probable inference, the law of succession, and statistical
inference"), which keeps its level for few examples and at the ends, where a bootstrap of equal scores has no width.
Other scores, and differences, get the percentile bootstrap (Efron and Tibshirani 1993, "An introduction to the
bootstrap", chapter 13) from a fixed seed, so that the same scores always have the same interval. Differences are
resampled in pairs, example by example, which removes what makes examples hard for both sides. If no pair differs, what
is plausible is a difference in so many examples as Wilson's bound of a share that was never seen allows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean
from typing import Any, Literal, Self

LEVEL = 0.95
"""The confidence level of every interval here."""

Method = Literal["wilson", "bootstrap"]

_SEED = 20_000
_MOST_RESAMPLES, _FEWEST_RESAMPLES, _MOST_DRAWS = 2_000, 400, 4_000_000


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """The plausible values of a mean.

    Attributes:
        low, high: the bounds, at the level of :data:`LEVEL`.
        method: how they were computed.
    """

    low: float
    high: float
    method: Method

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"low": self.low, "high": self.high, "level": LEVEL, "method": self.method}

    @classmethod
    def decode(cls, message: dict[str, Any]) -> Self:
        """Decode the JSON form."""
        return cls(message["low"], message["high"], message["method"])


def interval_of_mean(values: Sequence[float]) -> MeanInterval:
    """Return the interval of the mean of scores.

    Args:
        values: the scores, at least one.
    """
    if all(value in (0, 1) for value in values):
        return MeanInterval(*_wilson(sum(values), len(values)), "wilson")
    return _bootstrap(tuple(values))


def interval_of_difference(differences: Sequence[float]) -> MeanInterval:
    """Return the interval of the mean of paired differences.

    Args:
        differences: of each example's two scores, at least one.
    """
    if any(differences):
        return _bootstrap(tuple(differences))
    most = _wilson(0, len(differences))[1]
    return MeanInterval(-most, most, "wilson")


def _wilson(successes: float, count: int) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share, spread = successes / count, z * z / count
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


# Up to a million draws take as long as all else that a comparison does, and people look at the same ones again.
@lru_cache(maxsize=64)
def _bootstrap(values: tuple[float, ...]) -> MeanInterval:
    count = len(values)
    resamples = max(_FEWEST_RESAMPLES, min(_MOST_RESAMPLES, _MOST_DRAWS // count))
    # No secret depends on it, and it has to be the same each time.
    generator = random.Random(_SEED)
    means = sorted(fmean(generator.choices(values, k=count)) for _ in range(resamples))
    tail = (1 - LEVEL) / 2
    low, high = means[int(tail * resamples)], means[min(resamples - 1, int((1 - tail) * resamples))]
    return MeanInterval(low, high, "bootstrap")
