"""JSON schemas that users write: checked when declared, and evaluated without network and without backtracking.

jsonschema is imported in functions, so that only those who have schemas pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from snakepit_bridge.variables.patterns import UnfitPatternError, check_pattern

# Keywords whose values are data, not schemas.
_DATA_KEYWORDS = ("const", "enum", "default", "examples")


@dataclass(frozen=True, slots=True)
class SchemaViolation:
    """What a schema doesn't allow in a document.

    Attributes:
        problem: what is wrong.
        path: where in the document; empty for the whole.
        instance: the value that was found there; None for the whole.
    """

    problem: str
    path: tuple[str | int, ...] = ()
    instance: Any = None


def check_schema(schema: Mapping[str, Any]) -> None:
    """Check that a schema is one of draft 2020-12 that :func:`find_violation` can evaluate.

    Raises:
        ValueError: it isn't; the text says why.
    """
    from jsonschema import Draft202012Validator, SchemaError

    try:
        _check_patterns(schema)
        Draft202012Validator.check_schema(schema)
    except SchemaError as exc:
        place = ".".join(map(str, exc.absolute_path))
        raise ValueError(f"{place}: {exc.message}" if place else exc.message) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def build_validator(schema: Mapping[str, Any]) -> Any:
    """Return jsonschema's validator of a schema that was checked."""
    from referencing import Registry

    from snakepit_bridge.variables.schema_patterns import Validator

    # An empty registry: the default one would fetch remote references from the network.
    return Validator(schema, registry=cast("Any", Registry()))


def find_violation(validator: Any, document: Any) -> SchemaViolation | None:
    """Return what a schema doesn't allow in a document, the most relevant one first; None if it fits.

    Args:
        validator: of :func:`build_validator`.
        document: JSON values.
    """
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        error: Any = best_match(validator.iter_errors(document))
    except Unresolvable as exc:
        return SchemaViolation(f"its schema refers to {exc.ref}, which it doesn't hold")
    except RecursionError:
        return SchemaViolation("its schema refers to itself without end")
    except UnfitPatternError as exc:
        return SchemaViolation(str(exc))
    except (ArithmeticError, ValueError):
        # jsonschema divides by the number of a multipleOf.
        return SchemaViolation("its schema compares an infinite number, or NaN, in a way that has no answer")
    if error is None:
        return None
    return SchemaViolation(str(error.message).rstrip("."), tuple(error.path), error.instance if error.path else None)


def _check_patterns(schema: Any) -> None:
    """Check that all patterns in a schema can be run.

    Raises:
        UnfitPatternError: a pattern can't be run.
    """
    if isinstance(schema, list):
        for item in cast("list[Any]", schema):
            _check_patterns(item)
    if not isinstance(schema, Mapping):
        return
    for key, value in cast("Mapping[str, Any]", schema).items():
        patterns = [value] if key == "pattern" else list(value) if key == "patternProperties" else []
        for pattern in patterns:
            if isinstance(pattern, str):
                check_pattern(pattern)
        if key == "unevaluatedProperties":
            raise UnfitPatternError("unevaluatedProperties isn't supported; use additionalProperties")
        if key not in _DATA_KEYWORDS:
            _check_patterns(value)
