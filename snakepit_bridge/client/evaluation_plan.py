"""What one evaluation is of: an arm, its examples and its metric, whose digests are its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.client.evaluation_arms import EvaluationArm
from snakepit_bridge.client.evaluation_metrics import ChosenMetric
from snakepit_bridge.client.evaluation_options import EvaluationOptions
from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.evaluations.records import EvaluationKey, EvaluationSubject

UNNAMED = "examples"
"""The name of a list of examples, which isn't a stored dataset."""


@dataclass(frozen=True, slots=True)
class PlannedEvaluation:
    """An arm with all that its evaluation is of."""

    arm: EvaluationArm
    dataset: Dataset
    examples: Sequence[Any]
    metric: ChosenMetric
    key: EvaluationKey

    @property
    def subject(self) -> EvaluationSubject:
        """The same by name."""
        arm, dataset = self.arm, self.dataset
        name = "" if dataset.name == UNNAMED and not dataset.version else dataset.name
        about = self.metric.pinned.metric
        return EvaluationSubject(
            arm.program.name,
            arm.program.version,
            arm.session,
            arm.token,
            name,
            dataset.version,
            about.name,
            about.reference,
            self.metric.place,
        )


def plan_evaluation(
    arm: EvaluationArm, dataset: Dataset, examples: Sequence[Any], metric: ChosenMetric, options: EvaluationOptions
) -> PlannedEvaluation:
    """Return an arm with all that its evaluation is of."""
    digests = arm.program.digest, arm.values_digest, dataset.digest, metric.pinned.digest
    return PlannedEvaluation(
        arm, dataset, examples, metric, EvaluationKey(*digests, options.failure_score, options.repeat, arm.lm_digest)
    )
