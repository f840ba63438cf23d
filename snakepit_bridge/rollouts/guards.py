"""Decide whether a candidate does harm: the two arms' confidence sequences, and what a guard allows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from snakepit_bridge.rollouts.confidence import Interval, ValueSum, bound_mean


class GuardVerdict(Enum):
    """What is known of a candidate."""

    BREACHED = "breached"
    HEALTHY = "healthy"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Margin:
    """How much worse than the baseline a candidate may be.

    Attributes:
        absolute: by how much its mean may be larger.
        relative: by which part of the baseline's mean it may be larger.
    """

    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside its baseline, in a metric of which less is better.

    Attributes:
        baseline, candidate: the plausible means of each arm.
        harm: the plausible values, lowest and highest, of how much worse the candidate is than its margin allows.
        verdict: breached, healthy (no plausible value is harmful), or open.
    """

    baseline: Interval
    candidate: Interval
    harm: tuple[float, float]
    verdict: GuardVerdict


def compare(baseline: ValueSum, candidate: ValueSum, margin: Margin, alpha: float) -> Comparison:
    """Compare two arms; the comparison may be repeated with every new value.

    Args:
        baseline: the values of the arm that is trusted.
        candidate: the values of the arm that is tried.
        margin: what is allowed.
        alpha: the probability that a harmless candidate is ever called harmful; several guards share theirs.
    """
    trusted, tried = bound_mean(baseline, alpha / 2), bound_mean(candidate, alpha / 2)
    factor = 1 + margin.relative
    low = tried.low - factor * trusted.high - margin.absolute
    high = tried.high - factor * trusted.low - margin.absolute
    verdict = GuardVerdict.BREACHED if low > 0 else GuardVerdict.HEALTHY if high <= 0 else GuardVerdict.OPEN
    return Comparison(trusted, tried, (low, high), verdict)


def bound_absolute(candidate: ValueSum, largest: float, alpha: float) -> GuardVerdict:
    """Compare a candidate with a fixed bound instead of a baseline.

    Args:
        candidate: the values of the arm that is tried.
        largest: the largest mean that is allowed.
        alpha: as in :func:`compare`.
    """
    tried = bound_mean(candidate, alpha)
    return (
        GuardVerdict.BREACHED
        if tried.low > largest
        else GuardVerdict.HEALTHY
        if tried.high <= largest
        else GuardVerdict.OPEN
    )
