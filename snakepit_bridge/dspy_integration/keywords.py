"""The LM keywords that a variable may steer, with the range of each.

DSPy hands a value that its native engine refuses to another engine without a word, so values are checked here first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.dspy_integration.bounds import shown
from snakepit_bridge.exceptions import ValidationError


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Rule:
    """What a target accepts: a test, the sentence that says it, and how a text is read where it stands for more."""

    accepts: Callable[[Any], bool]
    says: str
    read: Callable[[Any], Any] = _as_it_is


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """Returns the rule of a finite number in a range."""

    def accepts(value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and _is_finite(value) and low <= value <= high

    bounded = math.isfinite(low) or math.isfinite(high)
    return Rule(accepts, "it must be a number" + (f" from {low:g} to {high:g}" if bounded else ""))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def count(low: int) -> Rule:
    """Returns the rule of a whole number from ``low`` on."""

    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    return Rule(accepts, f"it must be a whole number from {low} on")


def parsed(value: Any) -> Any:
    """Reads a text that is a JSON list or object, since no type of variable holds either; others stay as they are."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _stop(value: Any) -> bool:
    many = isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, str) and v for v in value)
    return many or (isinstance(value, str) and value != "")


_whole = Rule(lambda value: isinstance(value, int) and not isinstance(value, bool), "it must be a whole number")
_object = Rule(lambda value: isinstance(value, dict), "it must be a JSON object", parsed)
text = Rule(lambda value: isinstance(value, str) and value.strip() != "", "it must be a text that isn't empty")
flag = Rule(lambda value: isinstance(value, bool), "it must be true or false")

RULES: dict[str, Rule] = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "max_tokens": count(1),
    "n": count(1),
    "stop": Rule(_stop, "it must be a text, or a JSON list of texts, none of them empty", parsed),
    "seed": _whole,
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "top_k": count(1),
    "min_p": number(0, 1),
    "logprobs": flag,
    "top_logprobs": count(0),
    "logit_bias": _object,
    "parallel_tool_calls": flag,
    "reasoning_effort": text,
    "rollout_id": _whole,
    "service_tier": text,
    "user": text,
    "verbosity": text,
}
"""The keywords by name; another one can be bound as ``config.<keyword>``."""

# They say where a request goes and who pays for it, or what the adapter itself must decide.
REFUSED = frozenset(
    {"api_base", "api_key", "api_version", "azure_ad_token_provider", "base_url", "custom_llm_provider", "extra_body"}
    | {"extra_headers", "extra_query", "headers", "organization", "project", "proxy", "timeout"}
    | {"messages", "model", "model_list", "prompt", "response_format", "tools"}
)

_SCALARS = (bool, int, float, str, list, dict)
_other = Rule(lambda value: isinstance(value, _SCALARS), "it must be a number, a text, a flag or JSON", parsed)


def check(keyword: str, variable: str, value: Any, rule: Rule | None = None) -> Any:
    """Returns what a target makes of a value; None, which takes an LM keyword away, always passes.

    Args:
        keyword: the target.
        variable: who says the value, for the error.
        value: the variable's value.
        rule: the target's rule; by default that of the LM keyword.

    Raises:
        ValidationError: the value is outside the target's range.
    """
    rule = rule or RULES.get(keyword, _other)
    if value is None:
        return None
    read = rule.read(value)
    if not rule.accepts(read):
        raise ValidationError(variable, shown(value), f"it is bound to {keyword}, and {rule.says}")
    return read


def spelt(keyword: str, lm: Any) -> str:
    """Returns an LM's own name for a keyword.

    Reasoning models call the token limit otherwise, and DSPy ignores the usual name on them.
    """
    reasoning = keyword == "max_tokens" and "max_completion_tokens" in getattr(lm, "kwargs", {})
    return "max_completion_tokens" if reasoning else keyword
