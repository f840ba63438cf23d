"""The LM keywords that a variable may steer, with the range of each.

DSPy hands a value that its native engine refuses to another engine without a word, so values are checked here first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.exceptions import ValidationError


@dataclass(frozen=True, slots=True)
class Rule:
    """What an LM keyword accepts: a test, and the sentence that says it."""

    accepts: Callable[[Any], bool]
    says: str


def _number(low: float, high: float) -> Rule:
    def accepts(value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value) and low <= value <= high

    return Rule(accepts, f"it must be a number from {low:g} to {high:g}")


def _count(low: int) -> Rule:
    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    return Rule(accepts, f"it must be a whole number from {low} on")


def _stop(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value))


_whole = Rule(lambda value: isinstance(value, int) and not isinstance(value, bool), "it must be a whole number")
_text = Rule(lambda value: isinstance(value, str) and value != "", "it must be a text that isn't empty")
_flag = Rule(lambda value: isinstance(value, bool), "it must be true or false")

RULES: dict[str, Rule] = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "max_tokens": _count(1),
    "n": _count(1),
    "stop": Rule(_stop, "it must be a text or a list of texts"),
    "seed": _whole,
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "top_k": _count(1),
    "min_p": _number(0, 1),
    "logprobs": _flag,
    "top_logprobs": _count(0),
    "reasoning_effort": _text,
    "user": _text,
}


def check(keyword: str, variable: str, value: Any) -> Any:
    """Returns the value if the LM keyword accepts it; None, which takes the keyword away, always is.

    Raises:
        ValidationError: the value is outside the keyword's range.
    """
    rule = RULES.get(keyword)
    if value is not None and rule is not None and not rule.accepts(value):
        raise ValidationError(variable, repr(value), f"it is bound to {keyword}, and {rule.says}")
    return value
