"""What a metric may return: a number or a boolean, alone or as the ``score`` of an object with ``feedback``."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from snakepit_bridge.exceptions import MetricError
from snakepit_bridge.variables.codec import shorten_repr

MAX_FEEDBACK_CHARACTERS = 4_000
"""The longest feedback of a metric that is kept."""


@dataclass(frozen=True, slots=True)
class MetricScore:
    """The score that a metric gave to a prediction.

    Attributes:
        value: a finite number or a boolean, as the metric returned it.
        feedback: why, in the metric's own words; empty if it said nothing.
    """

    value: float | bool
    feedback: str = ""

    @classmethod
    def of(cls, returned: object, *, metric: str) -> Self:
        """Return the score in what a metric returned.

        Args:
            returned: a number, a boolean, or a prediction, a mapping or any object with a ``score``.
            metric: its name, for the error.

        Raises:
            MetricError: it is no score: text, NaN, an infinity, None or anything else.
        """
        if isinstance(returned, (bool, numbers.Real)):
            return cls(_to_number(returned, metric))
        score, feedback = _read_part(returned, "score"), _read_part(returned, "feedback")
        if not isinstance(score, (bool, numbers.Real)):
            raise _refuse(metric, returned if score is None else score)
        return cls(_to_number(score, metric), "" if feedback is None else str(feedback)[:MAX_FEEDBACK_CHARACTERS])

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"score": self.value, "feedback": self.feedback} if self.feedback else {"score": self.value}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form."""
        return cls(message["score"], message.get("feedback", ""))


def _read_part(returned: object, name: str) -> object:
    if isinstance(returned, Mapping):
        return cast("Mapping[str, object]", returned).get(name)
    if isinstance(returned, (str, bytes)):
        return None
    # A dspy.Prediction raises AttributeError for a field that it lacks.
    return getattr(returned, name, None)


def _to_number(value: Any, metric: str) -> float | bool:
    if isinstance(value, bool):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise _refuse(metric, value)
    return int(value) if isinstance(value, int) else number


def _refuse(metric: str, returned: object) -> MetricError:
    found = f"{type(returned).__name__} {shorten_repr(returned)}"
    return MetricError(metric, f"it returned {found}, which is no score; return a finite number or a boolean")
