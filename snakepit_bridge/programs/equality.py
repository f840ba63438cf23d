"""Structural equality of values of two instances that were built separately."""

from __future__ import annotations

import functools
import json
import math
import types
from collections.abc import Mapping
from typing import Any, cast

import dspy
from dspy.primitives.base_module import BaseModule

from snakepit_bridge.dspy_integration.isolation import iter_attributes
from snakepit_bridge.dspy_integration.module_tree import is_part
from snakepit_bridge.dspy_integration.modules import plain_class_name

_OPAQUE = (types.ModuleType, types.BuiltinFunctionType, property)


def is_json(value: Any) -> bool:
    """Check whether a value survives a JSON round trip."""
    try:
        return are_alike(json.loads(json.dumps(value, allow_nan=False)), value)
    except (TypeError, ValueError, RecursionError):
        return False


def are_alike(left: Any, right: Any, pairs: Mapping[int, Any] | None = None) -> bool:
    """Check whether two values are structurally equal; opaque objects are equal if their types are.

    Args:
        left: the one value.
        right: the other.
        pairs: id of a part of the left module to the corresponding part of the right one.
    """
    return _compare(left, right, {}, pairs)


def _compare(left: Any, right: Any, seen: dict[tuple[int, int], bool], pairs: Mapping[int, Any] | None) -> bool:
    if left is right or (pairs is not None and pairs.get(id(left)) is right and right is not None):
        return True
    if type(left) is not type(right):
        return (
            isinstance(left, BaseModule)
            and isinstance(right, BaseModule)
            and plain_class_name(left) == plain_class_name(right)
        )
    if seen.setdefault((id(left), id(right)), False):
        return True
    seen[id(left), id(right)] = True
    if isinstance(left, (bool, int, str, bytes, type(None))):
        return bool(left == right)
    if isinstance(left, float):
        return bool(left == right) or (math.isnan(left) and math.isnan(cast(float, right)))

    def same(a: Any, b: Any) -> bool:
        return _compare(a, b, seen, pairs)

    return _compare_by_type(left, right, same)


def _compare_by_type(left: Any, right: Any, same: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in cast(Any, left).items())
    if isinstance(left, (list, tuple)):
        left_attributes, right_attributes = cast(list[Any], left), cast(list[Any], right)
        return len(left_attributes) == len(right_attributes) and all(map(same, left_attributes, right_attributes))
    if isinstance(left, type):
        return _compare_signatures(left, right) if issubclass(left, dspy.Signature) else False
    if isinstance(left, types.FunctionType):
        return left.__code__ is right.__code__ and same(_closure_values(left), _closure_values(right))
    if isinstance(left, types.MethodType):
        return left.__func__ is right.__func__
    if isinstance(left, functools.partial):
        return all(map(same, (left.func, left.args, left.keywords), (right.func, right.args, right.keywords)))
    if isinstance(left, _OPAQUE) or is_part(left):
        return is_part(left)
    return _compare_objects(left, right, same)


def _compare_by_equality(left: Any, right: Any) -> bool | None:
    """Return True if the objects (or arrays) compare equal by themselves; None if their equality doesn't tell."""
    try:
        equal = left == right
        if hasattr(equal, "all"):
            return bool(equal.all())
    except Exception:  # noqa: BLE001 (a foreign class's __eq__ may raise anything)
        return None
    return True if equal is True else None


def _compare_signatures(left: Any, right: Any) -> bool:
    return bool(left.instructions == right.instructions) and _describe_fields(left) == _describe_fields(right)


def _field_extras(info: Any) -> dict[str, Any]:
    """Return DSPy's extras of a field without empty ones."""
    return {key: value for key, value in (info.json_schema_extra or {}).items() if value not in (None, False)}


def _describe_fields(signature: Any) -> list[Any]:
    return [
        (name, info.annotation, info.is_required(), repr(info.default), _field_extras(info), repr(info.metadata))
        for name, info in signature.fields.items()
    ]


def _closure_values(function: Any) -> list[Any]:
    cells = function.__closure__ or ()
    return [cell.cell_contents if cell != types.CellType() else None for cell in cells]


def _compare_objects(left: Any, right: Any, same: Any) -> bool:
    equal = _compare_by_equality(left, right)
    if equal is not None:
        return equal
    left_attributes, right_attributes = dict(iter_attributes(left)), dict(iter_attributes(right))
    has_own_equality = type(left).__eq__ is not object.__eq__
    if not left_attributes and not right_attributes:
        return not has_own_equality
    return left_attributes.keys() == right_attributes.keys() and all(
        same(value, right_attributes[name]) for name, value in left_attributes.items()
    )
