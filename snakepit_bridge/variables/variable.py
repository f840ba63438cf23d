"""A session variable: a named, typed, constrained value, as immutable as the snapshot that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.variables.codec import canonical, parse, shown
from snakepit_bridge.variables.constraints import UNCONSTRAINED, Constraints
from snakepit_bridge.variables.types import VariableType, coerce, infer_type, is_text, to_json


@dataclass(frozen=True, eq=False)
class Variable:
    """One variable. Its value always has its type; ``declare`` and ``with_value`` also hold it to its constraints.

    The constructor itself leaves the constraints alone: an Elixir server is the authority on what it stores, NaN
    within bounds included, and a value that it published has to be readable here.
    """

    name: str
    type: VariableType
    value: Any
    constraints: Constraints = UNCONSTRAINED

    def __post_init__(self) -> None:
        if not is_text(self.name):
            raise ValidationError(shown(self.name), "a variable", "its name must be text that UTF-8 can hold")
        object.__setattr__(self, "value", coerce(self.name, self.type, self.value))

    @classmethod
    def declare(
        cls,
        name: str,
        value: Any,
        type: VariableType | str | None = None,
        constraints: Mapping[str, Any] | Constraints | None = None,
    ) -> Self:
        """Returns a variable whose type is the one named, else the value's own.

        Raises:
            ValidationError: the value has another type or breaks a constraint, or a constraint is malformed.
        """
        kind = infer_type(name, value) if type is None else VariableType.of(name, type)
        return cls(name, kind, value, Constraints.of(constraints, name))._obeying()

    @classmethod
    def decode(cls, name: str, data: bytes) -> Self:
        """Returns the variable that ``encode`` wrote.

        Raises:
            ValidationError: the bytes are no variable.
        """
        try:
            plain = parse(data)
            kind, value, constraints = plain["type"], plain["value"], plain["constraints"]
        except (ValueError, KeyError, TypeError) as error:
            rule = f"stored variables are JSON with type, value and constraints ({type(error).__name__}: {error})"
            raise ValidationError(name, shown(data), rule) from error
        return cls(name, VariableType.of(name, kind), value, Constraints.of(constraints, name, stored=True))

    def with_value(self, value: Any) -> Self:
        """Returns this variable with another value.

        Raises:
            ValidationError: the value doesn't have the variable's type or breaks a constraint.
        """
        return type(self)(self.name, self.type, value, self.constraints)._obeying()

    def encode(self) -> bytes:
        """Returns the canonical JSON of type, value and constraints: equal bytes mean an equal variable."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        value = to_json(self.type, self.value)
        return canonical({"type": self.type, "value": value, "constraints": self.constraints.as_dict()})

    def _obeying(self) -> Self:
        self.constraints.check(self.name, self.type, self.value)
        return self

    # By bytes and not by value, so that NaN equals itself and 1 differs from 1.0 wherever variables are compared.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variable) and self.name == other.name and self._encoded == other._encoded

    def __hash__(self) -> int:
        return hash((self.name, self._encoded))
