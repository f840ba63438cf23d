"""What was counted of one arm: predictions, errors, latency, cost, tokens and scores.

All of it merges by addition, so the counts of a stage are the sum of its minutes. The names of the fields are those of
the arm's hash in Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.confidence import ValueSum
from snakepit_bridge.rollouts.sketch import Buckets, count_above, count_values, index_of, mean_capped

BLAMELESS_ERRORS = frozenset({"PredictionCancelledError"})
"""Errors that say nothing of an arm, since the caller causes them: they count neither as failures nor as successes."""

_SCORE_PARTS = {"n": "count", "m": "millionths"}
_TOTALS = {"n": "predictions", "in": "input_tokens", "out": "output_tokens", "pico": "cost_pico"}


@dataclass(frozen=True, slots=True)
class ScoreSum:
    """The scores of one name.

    Attributes:
        count: how many there are.
        millionths: their sum, in millionths.
    """

    count: int = 0
    millionths: int = 0

    def __add__(self, other: ScoreSum) -> ScoreSum:
        """Return both together."""
        return ScoreSum(self.count + other.count, self.millionths + other.millionths)


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What one arm's committed predictions were like.

    Attributes:
        predictions: how many were committed, failed ones included.
        errors: how many of them failed, by the error's class.
        latency: the successful ones' milliseconds, as a sketch.
        cost: the successful ones' microdollars, as a sketch; answers from a cache are in neither sketch.
        input_tokens, output_tokens: of all LM calls.
        cost_pico: what they cost together, in picodollars.
        scores: the scores that were given, by name.
    """

    predictions: int = 0
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    latency: Buckets = field(default_factory=dict[str, int])
    cost: Buckets = field(default_factory=dict[str, int])
    input_tokens: int = 0
    output_tokens: int = 0
    cost_pico: int = 0
    scores: Mapping[str, ScoreSum] = field(default_factory=dict[str, ScoreSum])

    @classmethod
    def parse(cls, fields: Mapping[str, int]) -> ArmCounts:
        """Return the counts of a hash's fields; those that a newer version may have added are left out.

        Raises:
            ValueError: a bucket's name is none.
        """
        totals: dict[str, Any] = {"errors": {}, "latency": {}, "cost": {}}
        kinds = {"e": "errors", "lat": "latency", "usd": "cost"}
        scores: dict[str, ScoreSum] = {}
        for name, value in fields.items():
            kind, colon, rest = name.partition(":")
            if name in _TOTALS:
                totals[_TOTALS[name]] = value
            elif colon and kind in kinds:
                totals[kinds[kind]][rest] = value
            elif colon and kind == "s":
                score, _, part = rest.rpartition(":")
                if part in _SCORE_PARTS and ":" not in score:  # with a colon it counts a label of the score
                    scores[score] = scores.get(score, ScoreSum()) + ScoreSum(**{_SCORE_PARTS[part]: value})
        for bucket in (*totals["latency"], *totals["cost"]):
            index_of(bucket)
        return cls(**totals, scores=scores)

    def __add__(self, other: ArmCounts) -> ArmCounts:
        """Return both together."""
        names = self.scores.keys() | other.scores.keys()
        return ArmCounts(
            predictions=self.predictions + other.predictions,
            errors=_merge(self.errors, other.errors),
            latency=_merge(self.latency, other.latency),
            cost=_merge(self.cost, other.cost),
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost_pico=self.cost_pico + other.cost_pico,
            scores={name: self.scores.get(name, ScoreSum()) + other.scores.get(name, ScoreSum()) for name in names},
        )

    @property
    def failures(self) -> ValueSum:
        """A value for each prediction: 1 if it failed, else 0."""
        blameless = sum(self.errors.get(name, 0) for name in BLAMELESS_ERRORS)
        count = max(0, self.predictions - blameless)
        return ValueSum(count, float(min(count, sum(self.errors.values()) - blameless)))

    def slower_than(self, limit_s: float) -> ValueSum:
        """Return a value for each measured latency: 1 if it is above a limit in seconds, else 0."""
        return ValueSum(count_values(self.latency), float(count_above(self.latency, limit_s * 1_000)))

    def capped_cost(self, cap_usd: float) -> ValueSum:
        """Return each measured cost, cut off at a cap and as a share of it.

        Args:
            cap_usd: what counts as 1, in US dollars.
        """
        count = count_values(self.cost)
        return ValueSum(
            count, min(float(count), count * mean_capped(self.cost, cap_usd * MILLION) / (cap_usd * MILLION))
        )

    def shortfalls(self, score: str) -> ValueSum:
        """Return by how much each score of a name falls short of 1."""
        found = self.scores.get(score, ScoreSum())
        count = max(0, found.count)
        return ValueSum(count, min(float(count), max(0.0, count - found.millionths / MILLION)))


def _merge(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    merged = Counter(first)
    merged.update(second)
    return dict(merged)
