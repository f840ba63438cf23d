"""Compare two evaluations of the same examples by the same metric, example by example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.evaluations.intervals import MeanInterval, interval_of_difference
from snakepit_bridge.evaluations.records import EvaluationRecord, ExampleResult, score_of
from snakepit_bridge.exceptions import EvaluationError


@dataclass(frozen=True, slots=True)
class PairedExample:
    """An example that both sides were evaluated on.

    Attributes:
        baseline, candidate: how it fared on each side.
        difference: of the scores, positive if the candidate's is higher.
    """

    baseline: ExampleResult
    candidate: ExampleResult
    difference: float


@dataclass(frozen=True, slots=True)
class EvaluationComparison:
    """What a candidate's evaluation has over a baseline's.

    Attributes:
        baseline, candidate: the records.
        pairs: the examples that both have, in the candidate's order.
        difference: the mean difference of the scores over those, as a fraction.
        interval: of that mean.
        unpaired: how many examples only one side has.
    """

    baseline: EvaluationRecord
    candidate: EvaluationRecord
    pairs: tuple[PairedExample, ...]
    difference: float
    interval: MeanInterval
    unpaired: int = 0

    @property
    def flipped(self) -> list[PairedExample]:
        """The examples whose scores differ: the largest losses first, then gains from the smallest."""
        return sorted((pair for pair in self.pairs if pair.difference), key=lambda pair: pair.difference)

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``no clear difference`` where the interval contains 0."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "no clear difference"

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values, the flipped examples by their digests."""
        flipped = [
            {"example": pair.candidate.digest, "baseline": pair.baseline.score, "candidate": pair.candidate.score}
            for pair in self.flipped
        ]
        figures = {"difference": self.difference, "interval": self.interval.encode(), "verdict": self.verdict}
        counts = {"paired": len(self.pairs), "unpaired": self.unpaired}
        return (
            {"baseline": self.baseline.as_dict(), "candidate": self.candidate.as_dict()}
            | figures
            | counts
            | {"flipped": flipped}
        )


def compare_results(
    baseline: EvaluationRecord,
    baseline_results: Sequence[ExampleResult],
    candidate: EvaluationRecord,
    candidate_results: Sequence[ExampleResult],
) -> EvaluationComparison:
    """Compare two evaluations in pairs.

    Args:
        baseline, candidate: the records.
        baseline_results, candidate_results: of their examples.

    Raises:
        EvaluationError: the metrics differ, or there is no example that both have.
    """
    if baseline.key.metric_digest != candidate.key.metric_digest:
        names = f"{baseline.subject.metric} and {candidate.subject.metric}"
        raise EvaluationError("metric", f"scores of different metrics, or of versions of one, don't compare ({names})")
    earlier = dict(zip(_places(baseline_results), baseline_results, strict=True))
    pairs = [
        _pair(baseline, earlier[place], candidate, result)
        for place, result in zip(_places(candidate_results), candidate_results, strict=True)
        if place in earlier
    ]
    if not pairs:
        raise EvaluationError("dataset", "the evaluations have no example in common")
    differences = [pair.difference for pair in pairs]
    mean = sum(differences) / len(differences)
    unpaired = len(baseline_results) + len(candidate_results) - 2 * len(pairs)
    return EvaluationComparison(baseline, candidate, tuple(pairs), mean, interval_of_difference(differences), unpaired)


def _pair(
    baseline: EvaluationRecord, before: ExampleResult, candidate: EvaluationRecord, after: ExampleResult
) -> PairedExample:
    failure_scores = baseline.key.failure_score, candidate.key.failure_score
    return PairedExample(before, after, score_of(after, failure_scores[1]) - score_of(before, failure_scores[0]))


def _places(results: Sequence[ExampleResult]) -> list[tuple[str, int]]:
    """Return the digest of each example with the number of its occurrence, since a dataset may have it twice."""
    seen = Counter[str]()
    places: list[tuple[str, int]] = []
    for result in results:
        places.append((result.digest, seen[result.digest]))
        seen[result.digest] += 1
    return places
