"""A jsonschema validator that runs patterns without backtracking, instead of with Python's engine.

Separate from ``json_schemas``, so that only those who have schemas pay for the import of jsonschema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError, validators

from snakepit_bridge.exceptions import join_names
from snakepit_bridge.variables.patterns import search_pattern


def _validate_pattern(_: Any, wanted: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not search_pattern(wanted, instance):
        yield ValidationError(f"{instance!r} does not match {wanted!r}")


def _validate_pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for wanted, below in patterns.items():
        for name, value in cast("dict[str, Any]", instance).items():
            if search_pattern(wanted, name):
                yield from validator.descend(value, below, path=name, schema_path=wanted)


def _validate_additional_properties(
    validator: Any, below: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    others = cast("dict[str, Any]", instance)
    extra = [name for name in others if not _is_named(name, schema)]
    if below is False and extra:
        yield ValidationError(f"Additional properties are not allowed: {join_names(extra)}")
    elif below is not False:
        for name in extra:
            yield from validator.descend(others[name], below, path=name)


def _is_named(name: str, schema: Mapping[str, Any]) -> bool:
    patterns = schema.get("patternProperties", {})
    return name in schema.get("properties", {}) or any(search_pattern(pattern, name) for pattern in patterns)


Validator: Any = validators.extend(
    Draft202012Validator,
    {
        "pattern": cast("Any", _validate_pattern),
        "patternProperties": _validate_pattern_properties,
        "additionalProperties": _validate_additional_properties,
    },
)
"""Validator for draft 2020-12 without ``unevaluatedProperties``, which ``json_schemas`` rejects."""
