"""Upper bounds for variables' values and program specs, which cost work or memory on the workers.

An operator sets each of them with a ``DSPEX_MAX_…`` variable. A program is checked when it is registered and when it is
built, a value when it is applied to a program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from snakepit_bridge.exceptions import ValidationError

_MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class TargetBounds:
    """The upper bound of each quantity.

    Attributes:
        max_completions: completions of one LM call (``n``).
        max_output_tokens: tokens of an answer (``max_tokens``).
        max_attempts: attempts of MultiChainComparison, BestOfN and Refine, programs drawn by an Ensemble.
        max_iterations: rounds of an agent, and calls that it may make in them.
        max_threads: threads of Parallel.
        max_demos: demos of one predictor.
        max_tools: tools of one module.
        max_fields: fields of one signature.
        max_modules: modules of one program, including nested ones.
        max_module_depth: nesting depth of modules.
        max_json_depth: nesting depth of a value's lists and objects.
        max_text_chars: characters of one text, such as instructions.
        max_count: any other integer that bounds work or memory, such as ``top_k``.
    """

    max_completions: int = 128
    max_output_tokens: int = 1_000_000
    max_attempts: int = 100
    max_iterations: int = 1_000
    max_threads: int = 64
    max_demos: int = 1_000
    max_tools: int = 100
    max_fields: int = 200
    max_modules: int = 100
    max_module_depth: int = 8
    max_json_depth: int = 64
    max_text_chars: int = 200_000
    max_count: int = 1_000_000

    def find_excess(self, name: str, value: Any) -> str | None:
        """Return what exceeds a bound in a target's value, with the bound and its setting; None if nothing does."""
        name = name.removeprefix("config.")
        if isinstance(value, bool):
            return None
        if isinstance(value, (int, float)) and name in _COUNTS:
            return self.describe_excess(_COUNTS[name], value)
        if isinstance(value, str):
            return self.describe_excess("max_text_chars", len(value), "characters")
        if isinstance(value, (list, tuple, dict)):
            several = cast(Any, value)
            setting = _LISTS.get(name, "max_count")
            return self.describe_excess(setting, len(several), "items") or self.find_excess_depth(several)
        return None

    def describe_excess(self, setting: str, found: float, what: str = "") -> str | None:
        """Return the message for a count above its bound; None if it is within it."""
        bound: int = getattr(self, setting)
        if found <= bound:
            return None
        return f"{abbreviate(found)}{' ' + what if what else ''} are more than {bound} (DSPEX_{setting.upper()})"

    def find_excess_depth(self, value: Any) -> str | None:
        """Return the message for lists and objects that are nested too deeply; None if they aren't."""
        if not exceeds_depth(value, self.max_json_depth):
            return None
        return f"it is nested deeper than {self.max_json_depth} (DSPEX_MAX_JSON_DEPTH)"

    def check(self, name: str, variable: str, value: Any) -> None:
        """Check a variable's value against the bounds of a target.

        Raises:
            ValidationError: the value exceeds a bound; names the variable, the value and the bound.
        """
        excess = self.find_excess(name, value)
        if excess is not None:
            raise ValidationError(variable, abbreviate(value), f"it is bound to {name}, and {excess}")


DEFAULT_BOUNDS = TargetBounds()
"""The default bounds."""

_COUNTS: Mapping[str, str] = {
    "n": "max_completions",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "M": "max_attempts",
    "N": "max_attempts",
    "size": "max_attempts",
    "fail_count": "max_attempts",
    "max_rounds": "max_attempts",
    "max_iters": "max_iterations",
    "max_llm_calls": "max_iterations",
    "max_predictor_calls": "max_iterations",
    "num_threads": "max_threads",
    "max_bootstrapped_demos": "max_demos",
    "max_labeled_demos": "max_demos",
    **dict.fromkeys(
        ("top_k", "top_logprobs", "k", "max_errors", "timeout", "straggler_limit", "max_output_chars"), "max_count"
    ),
}
_LISTS: Mapping[str, str] = {"demos": "max_demos", "trainset": "max_demos", "tools": "max_tools"}


def exceeds_depth(value: Any, depth: int) -> bool:
    """Check whether lists and objects are nested deeper than ``depth``; cycles are allowed."""
    level: dict[int, Any] = {id(value): value}
    for _ in range(depth + 1):
        level = {id(inner): inner for held in level.values() for inner in _iter_items(held)}
        if not level:
            return False
    return True


def _iter_items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from cast(dict[Any, Any], value).values()
    elif isinstance(value, (list, tuple)):
        yield from cast(list[Any], value)


def abbreviate(value: Any) -> str:
    """Return a value's text for an error message; for a large one, its size or its beginning."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, (str, list, tuple, dict)):
        several = cast(Any, value)
        if len(several) > _MAX_SHOWN:
            return f"a {type(several).__name__} of {len(several)}"
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
