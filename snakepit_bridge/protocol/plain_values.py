"""From what Python users have to what a message holds: models, enums, sets and dataclasses become JSON values.

A worker makes of them what the program's fields ask for, so a model arrives as the model, and the prompt is the one of
the local program. What can't come back as it was is refused here, by name, and not at each prediction.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from typing import Any, cast
from uuid import UUID

from snakepit_bridge.protocol.json_values import BOUNDS, TypedList, TypedObject, ValueBounds, problem_of

_ATOMS = frozenset({str, int, float, bool, type(None)})
# What Celery's JSON carries as itself.
_CARRIED = frozenset({datetime, date, time, Decimal, bytes, UUID})
# DSPy's types that a prompt shows otherwise than the object of their fields.
_OF_DSPY = ("Image", "Audio", "File", "History", "Code", "Reasoning", "ToolCalls", "ToolCallResults")
_EXPERIMENTAL = ("Document", "Citations")
_LISTS: Mapping[str, type[Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class UnfitValueError(ValueError):
    """A value that can't travel; its text says where it stands and why."""


def plain_value(value: Any, bounds: ValueBounds = BOUNDS) -> Any:
    """Returns a value made of JSON types, and of the dates, decimals, bytes and UUIDs that Celery carries.

    Raises:
        UnfitValueError: it is too deep or too large, or a part of it has no such form.
    """
    made = _Plain(bounds).of(value, 0)
    if (problem := problem_of(made, bounds)) is not None:
        raise UnfitValueError(problem)
    return made


class _Plain:
    """Makes one value plain, and counts its parts: those of a small one may refer to each other and stand for many."""

    def __init__(self, bounds: ValueBounds) -> None:
        self._bounds = bounds
        self._parts = 0

    def of(self, value: Any, depth: int) -> Any:
        self._parts += 1
        kind = type(value)
        if kind in _ATOMS:
            return value
        if depth > self._bounds.depth:
            raise UnfitValueError(f"it is nested deeper than {self._bounds.depth} levels")
        if 2 * self._parts > self._bounds.max_bytes:
            raise UnfitValueError(f"it is larger than {self._bounds.max_bytes} bytes")
        if kind is dict:
            return self._object(value, depth)
        if kind is list or kind is tuple:
            return self._list(value, depth)
        if kind is TypedObject:
            return TypedObject(value.kind, self._object(value, depth))
        if kind is TypedList:
            return TypedList(value.kind, [self.of(one, depth + 1) for one in value])
        if kind in _CARRIED:
            return value
        return self._other(value, depth)

    def _other(self, value: Any, depth: int) -> Any:
        if isinstance(value, enum.Enum):
            return self.of(value.value, depth)
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        if isinstance(value, Mapping):
            return self._object(cast("Mapping[Any, Any]", value), depth)
        if isinstance(value, (set, frozenset, tuple, list)):
            return self._list(cast("Any", value), depth)
        if _is_model(value):
            return self._model(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return _returning(value, self._object(parts, depth))
        for kind in (str, bool, int, float):
            if isinstance(value, kind):
                return kind(value)
        return _returning(value, None)

    def _list(self, value: Any, depth: int) -> Any:
        items = [self.of(one, depth + 1) for one in value]
        if isinstance(value, list):
            return items
        if isinstance(value, tuple):
            return TypedList("tuple", items)
        # A set's order differs from process to process; a request's must not.
        ordered = sorted(items, key=lambda one: json.dumps(one, sort_keys=True, default=str))
        typed = TypedList("set" if isinstance(value, set) else "frozenset", ordered)
        return typed if _same(value, _again(typed)) else ordered

    def _object(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, one in value.items():
            name = key if type(key) is str else _key(key)
            if name in made:
                raise UnfitValueError(f"two of its keys are written {name!r}")
            try:
                made[name] = self.of(one, depth + 1)
            except UnfitValueError as unfit:
                raise _within(name, unfit) from None
        return made

    def _model(self, value: Any, depth: int) -> Any:
        """By its attributes and not as pydantic writes it: an image's own form is that of a prompt."""
        if "root" in type(value).model_fields:
            return _returning(value, self.of(value.root, depth + 1))
        parts: dict[str, Any] = {name: getattr(value, name) for name in type(value).model_fields}
        parts |= value.model_extra or {}
        made = self._object(parts, depth)
        if (named := _name_in_dspy(type(value))) is not None:
            return _returning(value, TypedObject(named, made))
        try:
            return _returning(value, made)
        except UnfitValueError:
            if not (aliases := _aliases(type(value))):
                raise
        return _returning(value, {aliases.get(name, name): one for name, one in made.items()})


def _is_model(value: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _name_in_dspy(kind: type[Any]) -> str | None:
    known = sys.modules.get("dspy")
    if known is not None and known.Code in kind.__bases__ and kind.__name__.startswith("Code_"):
        return "dspy.Code"  # of a language, which its prompt doesn't show
    if not kind.__module__.startswith("dspy."):
        return None
    return next((name for name, known in _dspy_types().items() if known is kind), None)


@cache
def _dspy_types() -> Mapping[str, Any]:
    import dspy
    import dspy.experimental

    known = {f"dspy.{name}": getattr(dspy, name) for name in _OF_DSPY}
    return known | {f"dspy.{name}": getattr(dspy.experimental, name) for name in _EXPERIMENTAL}


def revived(value: Any) -> Any:
    """Returns a value that travelled with the objects and lists in it made what they were: an image, a tuple.

    Raises:
        UnfitValueError: one isn't what it says that it was.
    """
    if isinstance(value, dict):
        parts = {name: revived(one) for name, one in cast("dict[str, Any]", value).items()}
        return _revive(value.kind, parts) if isinstance(value, TypedObject) else parts
    if isinstance(value, list):
        items = [revived(one) for one in cast("list[Any]", value)]
        return _revive(value.kind, items) if isinstance(value, TypedList) else items
    return value


def _again(plain: Any) -> Any:
    try:
        return revived(plain)
    except UnfitValueError:
        return None  # such as a set of dataclasses, which are objects in JSON


def _revive(kind: str, plain: Any) -> Any:
    known = _LISTS if isinstance(plain, list) else _dspy_types()
    if kind not in known:
        raise UnfitValueError(f"it holds a {kind[:80]!r}, which isn't known here")
    try:
        return known[kind](plain) if isinstance(plain, list) else known[kind].model_validate(plain)
    except Exception as refused:  # noqa: BLE001 - DSPy's types raise whatever they like
        raise UnfitValueError(f"it holds a {kind} that can't be read back ({_short(refused)})") from None


def _aliases(kind: Any) -> dict[str, str]:
    said = {name: info.validation_alias or info.alias for name, info in kind.model_fields.items()}
    return {name: alias for name, alias in said.items() if isinstance(alias, str)}


def _returning(value: Any, made: Any) -> Any:
    """Returns what was made of a value, or pydantic's JSON form of it, if a worker would read the value back from it.

    Raises:
        UnfitValueError: it can't be read back, or as something else.
    """
    # Not at the top: a client that sends texts and numbers does without it.
    from pydantic import TypeAdapter

    kind, what = cast("type[Any]", type(value)), f"a value of type {type(value).__name__}"
    try:
        adapter = TypeAdapter(kind)
        plain = adapter.dump_python(value, mode="json") if made is None else made
        # By its parts, as the worker does where a field's type is another than this.
        again = adapter.validate_python(revived(dict(plain) if isinstance(plain, TypedObject) else plain))
    except Exception as refused:  # noqa: BLE001 - people's types raise whatever they like
        raise UnfitValueError(f"{what} has no JSON form that it could be read back from ({_short(refused)})") from None
    if not _same(value, again):
        raise UnfitValueError(f"{what} isn't the same when it is read back from JSON")
    return plain


def _same(value: Any, again: Any) -> bool:
    try:
        # NaN equals nothing, so what holds one is compared by what it shows. A secret shows nothing.
        return bool(value == again) or ("nan" in repr(value).lower() and repr(value) == repr(again))
    except Exception:  # noqa: BLE001 - such as an array, whose comparison is no answer
        return False


def _key(key: Any) -> str:
    """A key as JSON has it; 1 and "1" are the same there."""
    if isinstance(key, enum.Enum):
        return _key(key.value)
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool):
        return _KEYS[key]
    if isinstance(key, (int, float)):
        return repr(key)
    if type(key) in _CARRIED - {bytes}:
        return key.isoformat() if hasattr(key, "isoformat") else str(key)
    raise UnfitValueError(f"a key can't be a {type(key).__name__}")


_KEYS: Mapping[bool | None, str] = {None: "None", True: "true", False: "false"}


def _within(name: str, unfit: UnfitValueError) -> UnfitValueError:
    said = str(unfit)
    if len(said) > _LONGEST:
        return unfit
    return UnfitValueError(
        f"in {name[:80]}.{said.removeprefix('in ')}" if said.startswith("in ") else f"in {name[:80]}: {said}"
    )


_LONGEST = 400


def _short(refused: Exception) -> str:
    line = " ".join(str(refused).split())
    return line if len(line) <= 200 else f"{line[:200]}…"
