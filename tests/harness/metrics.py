"""Metrics for tests of evaluations, good and bad; a worker names this module in its allowed packages."""

from __future__ import annotations

import math
from typing import Any

import dspy


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    """Tell whether the answer is the expected one."""
    return bool(prediction.answer == example.answer)


def closeness(example: Any, prediction: Any, trace: Any = None, *, scale: float = 1.0) -> float:
    """Return the share of the answer's characters that are in place."""
    same = sum(a == b for a, b in zip(example.answer, prediction.answer, strict=False))
    return scale * same / max(len(example.answer), len(prediction.answer), 1)


def explained(example: Any, prediction: Any, trace: Any = None) -> Any:
    """Return a score with feedback."""
    return dspy.Prediction(score=exact(example, prediction), feedback=f"expected {example.answer}")


def raising(example: Any, prediction: Any) -> float:
    """Raise."""
    raise ValueError("no metric today")


def not_a_number(example: Any, prediction: Any) -> float:
    """Return NaN."""
    return math.nan


def text(example: Any, prediction: Any) -> Any:
    """Return text."""
    return "good"


def leaving(example: Any, prediction: Any) -> float:
    """End the process, if it is allowed to."""
    raise SystemExit(3)


async def awaited(example: Any, prediction: Any) -> bool:
    """Tell the same as ``exact``, as a coroutine."""
    return exact(example, prediction)


class Threshold:
    """Tells whether the answer is long enough."""

    def __init__(self, characters: int) -> None:
        self._characters = characters

    def __call__(self, example: Any, prediction: Any) -> bool:
        """Tell whether it is."""
        return len(prediction.answer) >= self._characters


class Graded(dspy.Module):
    """Asks an LM for a grade."""

    def __init__(self) -> None:
        super().__init__()
        self.grade = dspy.Predict("expected, answer -> grade: float")

    def forward(self, example: Any, prediction: Any, trace: Any = None) -> Any:
        """Return the grade."""
        graded = self.grade(expected=example.answer, answer=prediction.answer)
        return dspy.Prediction(score=graded.grade)


def without_parameters() -> float:
    """Take no example."""
    return 1.0


CONSTANT = 7
"""No metric."""
