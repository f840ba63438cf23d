"""Evaluation: the result of ``fleet.evaluate``, which is DSPy's own with the fleet's record."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Self, cast

import dspy
from dspy.evaluate import EvaluationResult

from snakepit_bridge.evaluations.intervals import MeanInterval
from snakepit_bridge.evaluations.records import EvaluationRecord, ExampleResult


class Evaluation(EvaluationResult):
    """How a program did on a dataset by a metric; ``score`` and ``results`` are those of ``dspy.Evaluate``.

    Attributes:
        record: what was evaluated, and its figures.
        examples: how each example fared, with its error if it failed, in the order of the dataset.
        is_new: whether it was run now; False if its record was there already.
    """

    # Declared here, so that DSPy keeps them beside the fields and not among them.
    record: EvaluationRecord = cast(EvaluationRecord, None)
    examples: Sequence[ExampleResult] = ()
    is_new: bool = True

    @classmethod
    def build(
        cls,
        record: EvaluationRecord,
        results: Sequence[ExampleResult],
        examples: Sequence[dspy.Example],
        predictions: Sequence[dspy.Prediction | None] = (),
        *,
        is_new: bool,
    ) -> Self:
        """Return the evaluation of a record.

        Args:
            record: its figures.
            results: how each example fared.
            examples: the examples as they were given.
            predictions: the predictions, where they are at hand; those of the record otherwise.
            is_new: whether it was run now.
        """
        at_hand = predictions or [None] * len(results)
        failure_score = record.key.failure_score
        rows: list[tuple[dspy.Example, dspy.Example, Any]] = [
            (example, prediction or _rebuild(result), _show_score(result, failure_score))
            for example, prediction, result in zip(examples, at_hand, results, strict=True)
        ]
        evaluation = cls(record.score, rows)
        evaluation.record, evaluation.examples, evaluation.is_new = record, tuple(results), is_new
        return evaluation

    def __repr__(self) -> str:
        interval = self.interval
        return (
            f"Evaluation({self.record.subject.metric}={self.score}, {100 * interval.low:.1f} to "
            f"{100 * interval.high:.1f}, {self.record.count} examples, {self.record.errors} errors)"
        )

    @property
    def id(self) -> str:
        """The id of its record."""
        return self.record.id

    @property
    def interval(self) -> MeanInterval:
        """The plausible values of the mean score, as fractions."""
        return self.record.interval

    @property
    def errors(self) -> list[ExampleResult]:
        """The examples that failed."""
        return [result for result in self.examples if result.score is None]

    @property
    def cost_usd(self) -> Decimal | None:
        """What its LM calls cost, those of the metric included; None if no call of it is priced."""
        return self.record.usage.cost_usd


def _rebuild(result: ExampleResult) -> dspy.Prediction:
    """Return the prediction of a record, without its provenance."""
    prediction = dspy.Prediction()
    # By key: an output may be called `base`, `self` or whatever else DSPy's constructor takes.
    vars(prediction)["_store"] = dict(result.outputs)
    return prediction


def _show_score(result: ExampleResult, failure_score: float) -> Any:
    """Return a score as the metric returned it."""
    if result.score is None:
        return failure_score
    return dspy.Prediction(score=result.score, feedback=result.feedback) if result.feedback else result.score
