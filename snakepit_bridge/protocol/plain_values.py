"""Conversion of Python values to JSON values: models, enums, sets and dataclasses.

A worker converts them to what the program's fields declare, so a model arrives as the model, and the prompt equals that
of a local run. A value that can't be restored is rejected here, with its path, and not at each prediction.
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

from snakepit_bridge.protocol.json_values import BOUNDS, TypedList, TypedObject, ValueBounds, find_problem

_ATOMS = frozenset({str, int, float, bool, type(None)})
# Types that Celery's JSON encodes itself.
_CELERY_TYPES = frozenset({datetime, date, time, Decimal, bytes, UUID})
# DSPy's types that a prompt renders differently from the object of their fields.
_DSPY_TYPES = ("Image", "Audio", "File", "History", "Code", "Reasoning", "ToolCalls", "ToolCallResults")
_EXPERIMENTAL_DSPY_TYPES = ("Document", "Citations")
_LISTS: Mapping[str, type[Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class UnfitValueError(ValueError):
    """A value that can't be sent; the message names its path and the reason."""


def to_plain_value(value: Any, bounds: ValueBounds = BOUNDS) -> Any:
    """Return the value as JSON types and the dates, decimals, bytes and UUIDs that Celery encodes.

    Raises:
        UnfitValueError: the value is too deep or too large, or a part of it has no such form.
    """
    plain = _Converter(bounds).convert(value, 0)
    if (problem := find_problem(plain, bounds)) is not None:
        raise UnfitValueError(problem)
    return plain


class _Converter:
    """Converts one value and counts its parts, since a small one may refer to the same parts many times."""

    def __init__(self, bounds: ValueBounds) -> None:
        self._bounds = bounds
        self._parts = 0

    def convert(self, value: Any, depth: int) -> Any:
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
            return TypedList(value.kind, [self.convert(item, depth + 1) for item in value])
        if kind in _CELERY_TYPES:
            return value
        return self._other(value, depth)

    def _other(self, value: Any, depth: int) -> Any:
        if isinstance(value, enum.Enum):
            return self.convert(value.value, depth)
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
            return _check_round_trip(value, self._object(parts, depth))
        for kind in (str, bool, int, float):
            if isinstance(value, kind):
                return kind(value)
        return _check_round_trip(value, None)

    def _list(self, value: Any, depth: int) -> Any:
        items = [self.convert(item, depth + 1) for item in value]
        if isinstance(value, list):
            return items
        if isinstance(value, tuple):
            return TypedList("tuple", items)
        # A set's order differs between processes, and equal requests must be encoded alike.
        ordered = sorted(items, key=lambda item: json.dumps(item, sort_keys=True, default=str))
        typed = TypedList("set" if isinstance(value, set) else "frozenset", ordered)
        return typed if _is_same(value, _try_revive(typed)) else ordered

    def _object(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, item in value.items():
            name = key if type(key) is str else _encode_key(key)
            if name in plain:
                raise UnfitValueError(f"two of its keys are written {name!r}")
            try:
                plain[name] = self.convert(item, depth + 1)
            except UnfitValueError as exc:
                raise _prefix_path(name, exc) from None
        return plain

    def _model(self, value: Any, depth: int) -> Any:
        """Convert a model by its attributes, since ``model_dump`` of DSPy's types renders them for a prompt."""
        if "root" in type(value).model_fields:
            return _check_round_trip(value, self.convert(value.root, depth + 1))
        parts: dict[str, Any] = {name: getattr(value, name) for name in type(value).model_fields}
        parts |= value.model_extra or {}
        plain = self._object(parts, depth)
        if (type_name := _dspy_type_name(type(value))) is not None:
            return _check_round_trip(value, TypedObject(type_name, plain))
        try:
            return _check_round_trip(value, plain)
        except UnfitValueError:
            if not (aliases := _validation_aliases(type(value))):
                raise
        return _check_round_trip(value, {aliases.get(name, name): item for name, item in plain.items()})


def _is_model(value: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _dspy_type_name(kind: type[Any]) -> str | None:
    known = sys.modules.get("dspy")
    if known is not None and known.Code in kind.__bases__ and kind.__name__.startswith("Code_"):
        return "dspy.Code"  # of a language, which prompts don't show
    if not kind.__module__.startswith("dspy."):
        return None
    return next((name for name, known in _dspy_types().items() if known is kind), None)


@cache
def _dspy_types() -> Mapping[str, Any]:
    import dspy
    import dspy.experimental

    known = {f"dspy.{name}": getattr(dspy, name) for name in _DSPY_TYPES}
    return known | {f"dspy.{name}": getattr(dspy.experimental, name) for name in _EXPERIMENTAL_DSPY_TYPES}


def revive(value: Any) -> Any:
    """Return a received value with its typed objects and lists restored, such as images and tuples.

    Raises:
        UnfitValueError: one isn't a valid value of its type.
    """
    if isinstance(value, dict):
        parts = {name: revive(item) for name, item in cast("dict[str, Any]", value).items()}
        return _revive(value.kind, parts) if isinstance(value, TypedObject) else parts
    if isinstance(value, list):
        items = [revive(item) for item in cast("list[Any]", value)]
        return _revive(value.kind, items) if isinstance(value, TypedList) else items
    return value


def _try_revive(plain: Any) -> Any:
    try:
        return revive(plain)
    except UnfitValueError:
        return None  # such as a set of dataclasses, which are objects in JSON


def _revive(kind: str, plain: Any) -> Any:
    known = _LISTS if isinstance(plain, list) else _dspy_types()
    if kind not in known:
        raise UnfitValueError(f"it holds a {kind[:80]!r}, which isn't known here")
    try:
        return known[kind](plain) if isinstance(plain, list) else known[kind].model_validate(plain)
    except Exception as exc:  # noqa: BLE001 - DSPy's types may raise anything
        raise UnfitValueError(f"it holds a {kind} that can't be read back ({_shorten(exc)})") from None


def _validation_aliases(kind: Any) -> dict[str, str]:
    aliases = {name: info.validation_alias or info.alias for name, info in kind.model_fields.items()}
    return {name: alias for name, alias in aliases.items() if isinstance(alias, str)}


def _check_round_trip(value: Any, plain: Any) -> Any:
    """Return a value's plain form, or pydantic's JSON form if that is None, once it proves to restore the value.

    Raises:
        UnfitValueError: the form can't be read back, or gives another value.
    """
    # Imported here: a client that sends only text and numbers doesn't need it.
    from pydantic import TypeAdapter

    kind, what = cast("type[Any]", type(value)), f"a value of type {type(value).__name__}"
    try:
        adapter = TypeAdapter(kind)
        plain = adapter.dump_python(value, mode="json") if plain is None else plain
        # From its parts, as a worker does whose field has another type.
        restored = adapter.validate_python(revive(dict(plain) if isinstance(plain, TypedObject) else plain))
    except Exception as exc:  # noqa: BLE001 - users' types may raise anything
        raise UnfitValueError(f"{what} has no JSON form that it could be read back from ({_shorten(exc)})") from None
    if not _is_same(value, restored):
        raise UnfitValueError(f"{what} isn't the same when it is read back from JSON")
    return plain


def _is_same(value: Any, restored: Any) -> bool:
    try:
        # NaN doesn't equal itself, so values with one are compared by repr. A secret's repr shows nothing.
        return bool(value == restored) or ("nan" in repr(value).lower() and repr(value) == repr(restored))
    except Exception:  # noqa: BLE001 - such as an array, whose comparison isn't a bool
        return False


def _encode_key(key: Any) -> str:
    """Return a key as JSON writes it, where 1 and "1" are the same."""
    if isinstance(key, enum.Enum):
        return _encode_key(key.value)
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool):
        return _KEYS[key]
    if isinstance(key, (int, float)):
        return repr(key)
    if type(key) in _CELERY_TYPES - {bytes}:
        return key.isoformat() if hasattr(key, "isoformat") else str(key)
    raise UnfitValueError(f"a key can't be a {type(key).__name__}")


_KEYS: Mapping[bool | None, str] = {None: "None", True: "true", False: "false"}


def _prefix_path(name: str, exc: UnfitValueError) -> UnfitValueError:
    message = str(exc)
    if len(message) > _MAX_MESSAGE_CHARACTERS:
        return exc
    return UnfitValueError(
        f"in {name[:80]}.{message.removeprefix('in ')}" if message.startswith("in ") else f"in {name[:80]}: {message}"
    )


_MAX_MESSAGE_CHARACTERS = 400


def _shorten(exc: Exception) -> str:
    line = " ".join(str(exc).split())
    return line if len(line) <= 200 else f"{line[:200]}…"
