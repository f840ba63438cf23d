"""Arguments: how a shell's text becomes a typed value, given what is known about its name, and a duration."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from snakepit_bridge.exceptions import BridgeError, ValidationError
from snakepit_bridge.rollouts.records import RESERVED_PREFIX
from snakepit_bridge.variables import Variable, VariableType
from snakepit_bridge.variables.codec import parse
from snakepit_bridge.variables.types import TEXT_TYPES

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")


@dataclass(frozen=True, slots=True)
class Assignment:
    """A variable as an argument names it, its text, and its type if the argument says it."""

    name: str
    text: str
    type: VariableType | None = None

    def apply_to(self, existing: Variable | None) -> Variable:
        """Return the variable with this value; one that exists keeps its type and constraints.

        Raises:
            ValidationError: the value doesn't fit the type or a constraint, or the variable has another type.
        """
        if existing is None:
            value = parse_value(self.text, self.type)
            if self.name.startswith(RESERVED_PREFIX) and isinstance(value, dict):
                value = self.text  # the fleet's own variables hold JSON as text
            return Variable.declare(self.name, value, self.type)
        if self.type not in (None, existing.type):
            raise ValidationError(self.name, f"of type '{self.type}'", f"it is a {existing.type}, and keeps that type")
        return existing.with_value(parse_value(self.text, existing.type))


def parse_pairs(arguments: Iterable[str], form: str = "name=value") -> dict[str, str]:
    """Split arguments at their first ``=``.

    Raises:
        BridgeError: one has no ``=`` or no name, or a name comes twice.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise BridgeError(f"An argument must be {form}; got '{argument}'.")
        if name in found:
            raise BridgeError(f"'{name}' is given twice; give it once.")
        found[name] = text
    return found


def parse_assignments(arguments: Iterable[str], types: Iterable[str], known: Collection[str]) -> list[Assignment]:
    """Read ``name=value`` and ``name:type=value``; a name that is ``known`` may itself hold a colon.

    Args:
        arguments: what to publish.
        types: ``name=type``, for names among them.
        known: the variables that there are.

    Raises:
        BridgeError: an argument is malformed, or a type is for a name that isn't published.
        ValidationError: there is no such type.
    """
    declared = parse_pairs(types, "--type name=type")
    found = [_parse_assignment(name, text, declared, known) for name, text in parse_pairs(arguments).items()]
    for name in declared.keys() - {assignment.name for assignment in found}:
        raise BridgeError(f"--type is for '{name}', which isn't published here; add {name}=value.")
    if len({assignment.name for assignment in found}) < len(found):
        raise BridgeError("A variable is given twice; give it once.")
    return found


def _parse_assignment(argument: str, text: str, types: Mapping[str, str], known: Collection[str]) -> Assignment:
    name, colon, suffix = argument.rpartition(":")
    if not colon or not name or argument in known or argument in types:
        name, suffix = argument, types.get(argument, "")
    return Assignment(name, text, VariableType.of(name, suffix) if suffix else None)


def parse_value(text: str, kind: VariableType | None) -> Any:
    """Return what a text means: JSON where it is JSON, else itself. For a text type only a JSON string is unquoted."""
    value = parse_json_or_text(text)
    return text if kind in TEXT_TYPES and not isinstance(value, str) else value


def parse_json_or_text(text: str) -> Any:
    """Return the value of a JSON text, and any other text itself."""
    try:
        return parse(text)
    except (ValueError, RecursionError):
        return text


def parse_duration_s(text: str) -> float:
    """Return the seconds of a duration such as ``90m``, ``24h`` or ``7d``.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 90m, 24h or 7d")
    return float(found[1]) * _UNITS_S[found[2]]
