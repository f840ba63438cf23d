"""Whether two values are alike, across instances that were built apart."""

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
    """Check whether JSON gives a value back as it is."""
    try:
        return are_alike(json.loads(json.dumps(value, allow_nan=False)), value)
    except (TypeError, ValueError, RecursionError):
        return False


def are_alike(one: Any, two: Any, pairs: Mapping[int, Any] | None = None) -> bool:
    """Check whether two values are alike, as far as that can be told: what hides itself is alike if its type is.

    Args:
        one: the one value.
        two: the other.
        pairs: by their ids, parts of the one's module with those of the other's that stand for them.
    """
    return _compare(one, two, {}, pairs)


def _compare(one: Any, two: Any, seen: dict[tuple[int, int], bool], pairs: Mapping[int, Any] | None) -> bool:
    if one is two or (pairs is not None and pairs.get(id(one)) is two and two is not None):
        return True
    if type(one) is not type(two):
        return (
            isinstance(one, BaseModule)
            and isinstance(two, BaseModule)
            and plain_class_name(one) == plain_class_name(two)
        )
    if seen.setdefault((id(one), id(two)), False):
        return True
    seen[id(one), id(two)] = True
    if isinstance(one, (bool, int, str, bytes, type(None))):
        return bool(one == two)
    if isinstance(one, float):
        return bool(one == two) or (math.isnan(one) and math.isnan(cast(float, two)))

    def same(a: Any, b: Any) -> bool:
        return _compare(a, b, seen, pairs)

    return _compare_by_type(one, two, same)


def _compare_by_type(one: Any, two: Any, same: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in cast(Any, one).items())
    if isinstance(one, (list, tuple)):
        mine, theirs = cast(list[Any], one), cast(list[Any], two)
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    if isinstance(one, type):
        return _compare_signatures(one, two) if issubclass(one, dspy.Signature) else False
    if isinstance(one, types.FunctionType):
        return one.__code__ is two.__code__ and same(_closure_values(one), _closure_values(two))
    if isinstance(one, types.MethodType):
        return one.__func__ is two.__func__
    if isinstance(one, functools.partial):
        return all(map(same, (one.func, one.args, one.keywords), (two.func, two.args, two.keywords)))
    if isinstance(one, _OPAQUE) or is_part(one):
        return is_part(one)
    return _compare_objects(one, two, same)


def _compare_by_equality(one: Any, two: Any) -> bool | None:
    """What the objects themselves say, arrays too; None where they don't know, as objects without an equality do."""
    try:
        equal = one == two
        if hasattr(equal, "all"):
            return bool(equal.all())
    except Exception:  # noqa: BLE001 (how objects of somebody else's compare is theirs)
        return None
    return True if equal is True else None


def _compare_signatures(one: Any, two: Any) -> bool:
    return bool(one.instructions == two.instructions) and _describe_fields(one) == _describe_fields(two)


def _field_extras(info: Any) -> dict[str, Any]:
    """What DSPy keeps of a field, without what says nothing."""
    return {key: value for key, value in (info.json_schema_extra or {}).items() if value not in (None, False)}


def _describe_fields(signature: Any) -> list[Any]:
    return [
        (name, info.annotation, info.is_required(), repr(info.default), _field_extras(info), repr(info.metadata))
        for name, info in signature.fields.items()
    ]


def _closure_values(function: Any) -> list[Any]:
    cells = function.__closure__ or ()
    return [cell.cell_contents if cell != types.CellType() else None for cell in cells]


def _compare_objects(one: Any, two: Any, same: Any) -> bool:
    equal = _compare_by_equality(one, two)
    if equal is not None:
        return equal
    mine, theirs = dict(iter_attributes(one)), dict(iter_attributes(two))
    has_own_equality = type(one).__eq__ is not object.__eq__
    if not mine and not theirs:
        return not has_own_equality
    return mine.keys() == theirs.keys() and all(same(value, theirs[name]) for name, value in mine.items())
