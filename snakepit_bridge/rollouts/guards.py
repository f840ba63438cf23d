"""Decide whether a candidate does harm: the two arms' confidence sequences, and what a guard allows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from snakepit_bridge.rollouts.confidence import EVEN, Interval, Prior, ValueSum, bound_contrast, bound_mean


class GuardVerdict(StrEnum):
    """What is known of a candidate.

    ``breached``: it does more harm than is allowed. ``healthy``: it does not. ``open``: neither is known.
    """

    BREACHED = "breached"
    HEALTHY = "healthy"
    OPEN = "open"

    @classmethod
    def of(cls, harm: Interval) -> GuardVerdict:
        """Return the verdict on the plausible values of the harm that isn't allowed."""
        return cls.BREACHED if harm.low > 0 else cls.HEALTHY if harm.high <= 0 else cls.OPEN


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
        baseline, candidate: the plausible means of each arm by itself; no baseline if it is a fixed bound.
        harm: the plausible values of how much worse the candidate is than is allowed.
    """

    baseline: Interval | None
    candidate: Interval
    harm: Interval

    @property
    def verdict(self) -> GuardVerdict:
        """What is known of the candidate."""
        return GuardVerdict.of(self.harm)


def compare(baseline: ValueSum, candidate: ValueSum, margin: Margin, alpha: float, prior: Prior = EVEN) -> Comparison:
    """Compare two arms; the comparison may be repeated with every new value.

    Args:
        baseline: the values of the arm that is trusted.
        candidate: the values of the arm that is tried.
        margin: what is allowed.
        alpha: the probability that a harmless candidate is ever called harmful; several guards share theirs.
        prior: of each arm's mean, chosen before the first value.
    """
    contrast = bound_contrast(baseline, candidate, 1 + margin.relative, alpha, prior)
    return Comparison(
        bound_mean(baseline, alpha, prior),
        bound_mean(candidate, alpha, prior),
        Interval(contrast.low - margin.absolute, contrast.high - margin.absolute),
    )


def compare_with_bound(candidate: ValueSum, largest: float, alpha: float, prior: Prior = EVEN) -> Comparison:
    """Compare a candidate with a fixed bound instead of a baseline.

    Args:
        candidate: the values of the arm that is tried.
        largest: the largest mean that is allowed.
        alpha, prior: as in :func:`compare`.
    """
    tried = bound_mean(candidate, alpha, prior)
    return Comparison(None, tried, Interval(tried.low - largest, tried.high - largest))
