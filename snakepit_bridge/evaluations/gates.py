"""Gates: conditions on evaluations, such as ``exact(golden) >= baseline - 0.02``, which a release has to meet.

    gate      = metric "(" dataset ")" operator bound
    operator  = ">=" | ">" | "<=" | "<"
    bound     = number ["%"] | "baseline" [("+" | "-") number ["%"]]

The measured side is the mean score of the candidate: 0.8 where the evaluation's score reads 80.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from snakepit_bridge.exceptions import GateError

Operator = Literal[">=", ">", "<=", "<"]

_GATE = re.compile(
    r"\s*(?P<metric>[A-Za-z_]\w{0,99})\s*\(\s*(?P<dataset>[A-Za-z0-9][\w.-]{0,99}(?:[@:][\w.-]{1,100})?)\s*\)"
    r"\s*(?P<operator>>=|<=|>|<)\s*(?P<bound>\S.*?)\s*",
    re.ASCII,
)
_NUMBER = r"(?P<number>\d{1,9}(?:\.\d{1,12})?|\.\d{1,12})\s*(?P<percent>%)?"
_ABSOLUTE = re.compile(_NUMBER, re.ASCII)
_RELATIVE = re.compile(rf"baseline(?:\s*(?P<sign>[+-])\s*{_NUMBER})?", re.ASCII)
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
# Sums of scores and differences of bounds are rounded to so many digits before they are compared.
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on a candidate's mean score.

    Attributes:
        metric: the metric's name.
        dataset: reference of the dataset.
        operator: how the score compares with the bound.
        offset: the bound, or what is added to the baseline's mean score.
        is_relative: whether the bound is relative to the baseline.
    """

    metric: str
    dataset: str
    operator: Operator
    offset: float
    is_relative: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a gate.

        Raises:
            GateError: it isn't of the form.
        """
        match = _GATE.fullmatch(text)
        if match is None:
            raise GateError(text, "it has no form METRIC(DATASET) >= BOUND")
        bound = match["bound"]
        absolute, relative = _ABSOLUTE.fullmatch(bound), _RELATIVE.fullmatch(bound)
        if absolute is None and relative is None:
            raise GateError(text, f"the bound {bound!r} is neither a number nor 'baseline' with one added or taken off")
        found = cast("re.Match[str]", absolute or relative)
        offset = _read_number(found) * (-1 if relative is not None and relative["sign"] == "-" else 1)
        compared = cast(Operator, match["operator"])
        return cls(match["metric"], match["dataset"], compared, offset, is_relative=relative is not None)

    def __str__(self) -> str:
        if not self.is_relative:
            return f"{self.metric}({self.dataset}) {self.operator} {_format(self.offset)}"
        added = "" if not self.offset else f" {'-' if self.offset < 0 else '+'} {_format(abs(self.offset))}"
        return f"{self.metric}({self.dataset}) {self.operator} baseline{added}"

    def check(self, candidate: float, baseline: float | None = None) -> GateOutcome:
        """Return whether a candidate passes.

        Args:
            candidate: its mean score.
            baseline: the baseline's mean score; only a relative gate needs it.

        Raises:
            GateError: the gate is relative, and there is no baseline.
        """
        if not self.is_relative:
            bound = self.offset
        elif baseline is None:
            raise GateError(str(self), "there is no baseline to compare with; name one, or give a number as the bound")
        else:
            bound = baseline + self.offset
        passed = _COMPARE[self.operator](round(candidate, _DIGITS), round(bound, _DIGITS))
        return GateOutcome(self, candidate, baseline if self.is_relative else None, bound, passed)


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """How a candidate fared at a gate.

    Attributes:
        gate: the gate.
        candidate: the candidate's mean score.
        baseline: the baseline's mean score; None if the gate doesn't compare with it.
        bound: what the score was compared with.
        passed: whether the condition is met.
        evaluations: ids of the evaluations that it rests on, the candidate's first.
    """

    gate: Gate
    candidate: float
    baseline: float | None
    bound: float
    passed: bool
    evaluations: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        figures = {"candidate": self.candidate, "baseline": self.baseline, "bound": self.bound}
        return {"gate": str(self.gate), **figures, "passed": self.passed, "evaluations": list(self.evaluations)}


def _read_number(match: re.Match[str]) -> float:
    if match["number"] is None:
        return 0.0
    return float(match["number"]) / (100 if match["percent"] else 1)


def _format(number: float) -> str:
    return f"{number:.12f}".rstrip("0").rstrip(".")
