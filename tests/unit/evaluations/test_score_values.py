"""What counts as a score of a metric, and what is refused by name."""

from __future__ import annotations

import math
from typing import Any

import dspy
import pytest

from snakepit_bridge.evaluations.score_values import MAX_FEEDBACK_CHARACTERS, MetricScore
from snakepit_bridge.exceptions import MetricError


@pytest.mark.parametrize(
    ("returned", "value", "feedback"),
    [
        (True, True, ""),
        (0.25, 0.25, ""),
        (3, 3, ""),
        (dspy.Prediction(score=0.5), 0.5, ""),
        (dspy.Prediction(score=1, feedback="names the year"), 1, "names the year"),
        ({"score": False, "feedback": "no"}, False, "no"),
    ],
)
def test_a_number_a_boolean_and_what_has_a_score_are_scores(returned: Any, value: Any, feedback: str) -> None:
    score = MetricScore.of(returned, metric="exact")
    assert (score.value, type(score.value), score.feedback) == (value, type(value), feedback)
    assert MetricScore.decode(score.encode()) == score


@pytest.mark.parametrize(
    "returned",
    [math.nan, math.inf, "0.5", None, [1.0], {"points": 1}, dspy.Prediction(score="high"), {"score": math.nan}],
)
def test_anything_else_is_refused_with_what_was_found(returned: Any) -> None:
    with pytest.raises(MetricError, match=r"Metric 'exact' can't score: it returned .+, which is no score"):
        MetricScore.of(returned, metric="exact")


def test_long_feedback_is_cut() -> None:
    score = MetricScore.of({"score": 1, "feedback": "x" * 10_000}, metric="exact")
    assert len(score.feedback) == MAX_FEEDBACK_CHARACTERS
