"""Session variables: immutable, named, typed and constrained values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.variables.codec import encode_canonical, parse, shorten_repr
from snakepit_bridge.variables.constraints import UNCONSTRAINED, Constraints
from snakepit_bridge.variables.types import VariableType, coerce, infer_type, is_text, to_json

MAX_NAME_CHARACTERS = 512
"""Characters of the name of a variable that is declared or bound."""


@dataclass(frozen=True, eq=False)
class Variable:
    """One variable. Its value always has its type; ``declare`` also checks name and constraints, ``with_value`` these.

    The constructor doesn't check them: an Elixir server is the authority on its values, such as NaN within bounds, and
    whatever it or an earlier release has published must be readable here.
    """

    name: str
    type: VariableType
    value: Any
    constraints: Constraints = UNCONSTRAINED

    def __post_init__(self) -> None:
        if not is_text(self.name):
            raise ValidationError(shorten_repr(self.name), "a variable", "its name must be text that UTF-8 can hold")
        object.__setattr__(self, "value", coerce(self.name, self.type, self.value))

    @classmethod
    def declare(
        cls,
        name: str,
        value: Any,
        type: VariableType | str | None = None,
        constraints: Mapping[str, Any] | Constraints | None = None,
    ) -> Self:
        """Return a variable of the given type, by default the value's own.

        Raises:
            ValidationError: the name can't be one, the value has another type or violates a constraint, or a constraint
                is malformed.
        """
        check_variable_name(name)
        kind = infer_type(name, value) if type is None else VariableType.of(name, type)
        return cls(name, kind, value, Constraints.of(constraints, name))._checked()

    @classmethod
    def decode(cls, name: str, data: bytes) -> Self:
        """Decode a variable that was encoded by ``encode``.

        Raises:
            ValidationError: the bytes aren't a variable.
        """
        try:
            plain = parse(data)
            kind, value, constraints = plain["type"], plain["value"], plain["constraints"]
        except (ValueError, KeyError, TypeError) as exc:
            rule = f"stored variables are JSON with type, value and constraints ({type(exc).__name__}: {exc})"
            raise ValidationError(name, shorten_repr(data), rule) from exc
        return cls(name, VariableType.of(name, kind), value, Constraints.of(constraints, name, stored=True))

    def with_value(self, value: Any) -> Self:
        """Return this variable with another value.

        Raises:
            ValidationError: the value has another type or violates a constraint.
        """
        return type(self)(self.name, self.type, value, self.constraints)._checked()

    def encode(self) -> bytes:
        """Return the canonical JSON of type, value and constraints; equal variables have equal bytes."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        value = to_json(self.type, self.value)
        return encode_canonical({"type": self.type, "value": value, "constraints": self.constraints.as_dict()})

    def _checked(self) -> Self:
        self.constraints.check(self.name, self.type, self.value)
        return self

    # Compared by bytes, so that NaN equals itself and 1 differs from 1.0.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variable) and self.name == other.name and self._encoded == other._encoded

    def __hash__(self) -> int:
        return hash((self.name, self._encoded))


def check_variable_name(name: object) -> None:
    """Refuse what can't be the name of a variable that is declared or bound.

    Raises:
        ValidationError: it isn't text, is blank, or too long.
    """
    if is_text(name) and str(name).strip() and len(str(name)) <= MAX_NAME_CHARACTERS:
        return
    raise ValidationError(
        f"A variable's name is text of 1 to {MAX_NAME_CHARACTERS} characters that aren't all blank; "
        f"got {shorten_repr(name)}. Give it one."
    )
