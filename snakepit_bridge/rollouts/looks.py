"""What the guards said of a rollout at past looks, so that people see how the intervals became what they are.

Nothing is decided on them: a decision is a function of the counts. So it does no harm if some are missing or doubled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from snakepit_bridge.rollouts.guard_reports import GuardReport

T = TypeVar("T")

MAX_LOOKS = 600
"""Looks that are kept of each rollout."""

_MIN_INTERVAL_S, _GROWTH = 1.0, 0.05
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class RolloutLook:
    """One look at a stage.

    Attributes:
        at: when, in Unix seconds by the store's clock.
        stage: the stage's number.
        guards: what each guard said, in the form of ``GuardReport.as_dict``.
    """

    at: float
    stage: int
    guards: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, at: float, stage: int, evidence: Sequence[GuardReport]) -> Self:
        """Return the look at which the guards said this; its numbers have six digits.

        Args:
            at: when, in Unix seconds by the store's clock.
            stage: the stage's number.
            evidence: what each guard said.
        """
        return cls(round(at, 3), stage, [_shorten(report.as_dict()) for report in evidence])

    def as_dict(self) -> dict[str, Any]:
        """Return the look as JSON values."""
        return {"at": self.at, "stage": self.stage, "guards": list(self.guards)}

    def encode(self) -> str:
        """Return the look as JSON."""
        return json.dumps(self.as_dict(), separators=(",", ":"))

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """Return the look of its JSON."""
        fields = json.loads(text)
        return cls(fields["at"], fields["stage"], fields["guards"])


def look_interval(elapsed_s: float) -> float:
    """Return the least seconds between two looks that are kept: a second at first, and more as a stage grows older.

    Bounds change with the logarithm of the number of values, so as many looks tell as much of a day as of an hour.

    Args:
        elapsed_s: how long the stage's share has counted.
    """
    return max(_MIN_INTERVAL_S, _GROWTH * elapsed_s)


def check_limit(looks: int) -> None:
    """Check how many looks a reader wants.

    Args:
        looks: how many at most; 0 for none.

    Raises:
        ValueError: that is no number of looks.
    """
    if not 0 <= looks <= MAX_LOOKS:
        raise ValueError(f"The number of looks is 0 to {MAX_LOOKS}; got {looks}.")


def thin(looks: Sequence[T], limit: int) -> tuple[T, ...]:
    """Return at most so many looks, spread evenly, with the first and the last.

    Args:
        looks: the looks, oldest first.
        limit: how many, at least one, which is the last.
    """
    if len(looks) <= limit:
        return tuple(looks)
    if limit == 1:
        return (looks[-1],)
    step = (len(looks) - 1) / (limit - 1)
    return tuple(looks[round(number * step)] for number in range(limit))


def _shorten(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.{_DIGITS}g}")
        case dict():
            return {name: _shorten(each) for name, each in value.items()}
        case list():
            return [_shorten(each) for each in value]
        case _:
            return value
