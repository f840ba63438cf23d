"""Constraints on variables' values, with the names that Elixir uses.

A malformed constraint is rejected here and never sent: in Elixir it can crash the whole session store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn, cast

from snakepit_bridge.exceptions import ValidationError, join_names
from snakepit_bridge.protocol.json_values import BOUNDS, find_problem
from snakepit_bridge.variables.codec import encode_canonical, parse, shorten_repr
from snakepit_bridge.variables.patterns import UnfitPatternError, check_pattern, search_pattern
from snakepit_bridge.variables.types import INTEGER_BITS, TEXT_TYPES, VariableType, is_text

_NUMBERS = frozenset({VariableType.FLOAT, VariableType.INTEGER})


@dataclass(frozen=True, slots=True)
class Constraints:
    """The constraints of one variable; those that don't apply to its type have no effect.

    ``unknown`` keeps unsupported keys as canonical JSON, so that they survive a round trip.
    """

    min: int | float | None = None
    max: int | float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    choices: tuple[Any, ...] | None = None
    allowed_modules: tuple[str, ...] | None = None
    dimensions: int | None = None
    shape: tuple[int, ...] | None = None
    unknown: str = "{}"

    @classmethod
    def of(
        cls, given: Mapping[str, Any] | Constraints | None, variable: str = "", *, stored: bool = False
    ) -> Constraints:
        """Parse a mapping of constraints; ``enum`` means ``choices``, and None no constraint.

        The pattern of a stored one isn't checked, so that it stays readable; new values are still checked against it.

        Raises:
            ValidationError: a constraint is malformed, or two contradict each other.
        """
        if isinstance(given, Constraints):
            return given
        if not given and (given is None or isinstance(given, dict)):
            return UNCONSTRAINED
        if not isinstance(given, Mapping) or not all(map(is_text, given)):  # pyright: ignore[reportUnnecessaryIsInstance]
            _refuse(variable, f"constrained by {shorten_repr(given)}", "constraints are a mapping of names to rules")
        constraints = _parse_rules(variable, {key: value for key, value in given.items() if value is not None})
        if constraints.pattern is not None and not stored:
            _check_runnable(variable, constraints.pattern)
        return constraints

    def as_dict(self) -> dict[str, Any]:
        """Return the constraints that are set as JSON types, including unknown keys."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "unknown"}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in named.items()}
        return parse(self.unknown) | {key: value for key, value in plain.items() if value is not None}

    def check(self, name: str, kind: VariableType, value: Any) -> None:
        """Check a value of the given type against the constraints that apply to the type.

        Raises:
            ValidationError: the value violates a constraint.
        """
        if kind in _NUMBERS:
            self._check_number(name, value)
        elif kind in TEXT_TYPES:
            self._check_text(name, value)
        elif kind is VariableType.EMBEDDING and self.dimensions not in (None, len(value)):
            _refuse(name, f"an embedding of {len(value)} numbers", f"it must have {self.dimensions}")
        elif kind is VariableType.TENSOR and self.shape not in (None, value.shape):
            _refuse(name, f"a tensor of shape {list(value.shape)}", f"its shape must be {list(self.shape or ())}")

    def _check_number(self, name: str, value: int | float) -> None:
        bounded = self.min is not None or self.max is not None
        if bounded and math.isnan(value):  # NaN compares false, so it would pass both.
            _refuse(name, "NaN", f"it must be a number between {self.min} and {self.max}")
        if self.min is not None and value < self.min:
            _refuse(name, shorten_repr(value), f"it must be at least {self.min}")
        if self.max is not None and value > self.max:
            _refuse(name, shorten_repr(value), f"it must be at most {self.max}")
        if self.choices is not None and value not in self.choices:
            _refuse(name, shorten_repr(value), f"it must be one of {_list_choices(self.choices)}")

    def _check_text(self, name: str, value: str) -> None:
        if self.min_length is not None and len(value) < self.min_length:
            _refuse(name, shorten_repr(value), f"it must have at least {self.min_length} characters")
        if self.max_length is not None and len(value) > self.max_length:
            _refuse(name, shorten_repr(value), f"it must have at most {self.max_length} characters")
        if self.pattern is not None:
            _check_pattern(name, self.pattern, value)
        if self.choices is not None and value not in self.choices:
            _refuse(name, shorten_repr(value), f"it must be one of {_list_choices(self.choices)}")
        if self.allowed_modules is not None and value not in self.allowed_modules:
            _refuse(name, shorten_repr(value), f"it must be one of the modules {_list_choices(self.allowed_modules)}")


UNCONSTRAINED = Constraints()
"""No constraints."""


def _parse_rules(variable: str, given: Mapping[str, Any]) -> Constraints:
    rules = {key: rule for key, rule in _RULES.items() if key in given}
    for key, (is_valid, expected, _) in rules.items():
        if not is_valid(given[key]):
            _refuse(variable, f"constrained by {key}={shorten_repr(given[key])}", f"{key} must be {expected}")
    named = {key: convert(given[key]) for key, (_, _, convert) in rules.items()}
    _merge_enum(named)
    constraints = Constraints(**named, unknown=_encode_unknown(variable, given))
    _check_order(variable, "min", "max", constraints.min, constraints.max)
    _check_order(variable, "min_length", "max_length", constraints.min_length, constraints.max_length)
    return constraints


def _check_runnable(variable: str, pattern: str) -> None:
    try:
        check_pattern(pattern)
    except UnfitPatternError as exc:
        found = f"constrained by pattern={shorten_repr(pattern)}"
        raise ValidationError(variable, found, f"pattern must be a regular expression: {exc}") from exc


def _check_pattern(name: str, pattern: str, value: str) -> None:
    try:
        matched = search_pattern(pattern, value)
    except UnfitPatternError as exc:
        raise ValidationError(
            name, shorten_repr(value), f"its pattern {shorten_repr(pattern)} can't be run: {exc}"
        ) from exc
    if not matched:
        _refuse(name, shorten_repr(value), f"it must match the pattern {pattern!r}")


def _merge_enum(named: dict[str, Any]) -> None:
    """Merge ``enum`` into ``choices``, which Elixir treats alike: with both, a value has to be in both."""
    listed = named.pop("enum", None)
    if listed is not None:
        named["choices"] = tuple(choice for choice in named.get("choices", listed) if choice in listed)


def _encode_unknown(variable: str, given: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in given.items() if key not in _RULES}
    try:
        if (problem := find_problem(rest, BOUNDS)) is not None:
            raise ValueError(problem)
        return encode_canonical(rest).decode()
    except (TypeError, ValueError) as exc:
        _refuse(variable, f"constrained by {shorten_repr(rest)}", f"constraints must be JSON ({exc})")


def _check_order(variable: str, low: str, high: str, least: float | None, most: float | None) -> None:
    if least is not None and most is not None and least > most:
        _refuse(variable, f"constrained by {low}={least} and {high}={most}", f"{low} must not be above {high}")


def _refuse(variable: str, found: str, rule: str) -> NoReturn:
    raise ValidationError(variable, found, rule)


def _list_choices(choices: Iterable[Any]) -> str:
    return join_names(map(str, choices))


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # `math.isfinite` raises for integers that a float can't hold.
    return value.bit_length() <= INTEGER_BITS if isinstance(value, int) else math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_list_of(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(is_valid(item) for item in cast("list[Any]", value))


def _identity(value: Any) -> Any:
    return value


# Per key: the check of the rule's value, what it must be, and its conversion.
_RULES: dict[str, tuple[Callable[[Any], bool], str, Callable[[Any], Any]]] = {
    "min": (_is_number, "a finite number", _identity),
    "max": (_is_number, "a finite number", _identity),
    "min_length": (_is_count, "a count of characters", _identity),
    "max_length": (_is_count, "a count of characters", _identity),
    "pattern": (is_text, "a regular expression", _identity),
    "choices": (_is_list_of(lambda item: is_text(item) or _is_number(item)), "a list of texts or numbers", tuple),
    "enum": (_is_list_of(lambda item: is_text(item) or _is_number(item)), "a list of texts or numbers", tuple),
    "allowed_modules": (_is_list_of(is_text), "a list of module names", tuple),
    "dimensions": (_is_count, "a count of numbers", _identity),
    "shape": (_is_list_of(_is_count), "a list of sizes", tuple),
}
