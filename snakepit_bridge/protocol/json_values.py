"""JSON values of people, as they cross Celery's messages: whatever they look like, they arrive as they were.

Celery's JSON gives an object with exactly the keys ``__type__`` and ``__value__`` a meaning: it is how dates, decimals
and bytes travel. An object of somebody's data with these keys gets a third one, ``__data__``, before it is written, so
that Celery leaves it alone, and loses it when it is read. All other objects cross as they are, for any Celery client.

The same third key carries what JSON has no form for and a prompt shows: that an object was a ``dspy.Image``, or a list
a tuple (:class:`TypedObject`, :class:`TypedList`). Data can't be taken for that, since an object with all three keys is
escaped as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.json import object_hook as kombu_hook

_TYPE, _VALUE, _DATA = "__type__", "__value__", "__data__"
_TYPED = frozenset({_TYPE, _VALUE})
_ESCAPED = frozenset({_TYPE, _VALUE, _DATA})
# What `__data__` holds where it was added; where the data had such a key itself, an object around that key's value.
_ADDED = 0
_KIND = "kind"
# Python neither prints nor parses integers of more than 4,300 digits.
_INTEGER_BITS = 14_000


@dataclass(frozen=True, slots=True)
class ValueBounds:
    """How large a value may be that somebody gives to the fleet.

    Attributes:
        depth: levels of objects and lists within each other.
        max_bytes: about how much text and how many numbers it holds, in bytes of JSON.
    """

    depth: int = 100
    max_bytes: int = 64 * 1024 * 1024


class TypedObject(dict[str, Any]):
    """An object that was of a known type before it became JSON.

    Attributes:
        kind: the type's name, such as ``dspy.Image``.
    """

    def __init__(self, kind: str, parts: Mapping[str, Any]) -> None:
        super().__init__(parts)
        self.kind = kind


class TypedList(list[Any]):
    """A list that was of another type before it became JSON.

    Attributes:
        kind: the type's name, such as ``tuple``.
    """

    def __init__(self, kind: str, items: Iterable[Any]) -> None:
        super().__init__(items)
        self.kind = kind


BOUNDS = ValueBounds()
"""The bounds that hold where nobody sets others."""


def problem_of(value: Any, bounds: ValueBounds) -> str | None:
    """Returns what is wrong with a value, None if it can travel: too deep, too large, or text that UTF-8 can't carry.

    It runs for every request, most of which are small: no recursion, and the exact types first.
    """
    total, depth, level = 0, 0, [value]
    while level:
        if depth > bounds.depth:
            return f"it is nested deeper than {bounds.depth} levels"
        below: list[Any] = []
        for one in level:
            kind = type(one)
            if kind is str:
                total += len(one) + 2
                if not one.isascii() and not _is_utf8(one):
                    return "it holds a lone surrogate, which UTF-8 can't carry"
            elif isinstance(one, Mapping):
                below += cast("Mapping[Any, Any]", one)
                below += cast("Mapping[Any, Any]", one).values()
            elif isinstance(one, (list, tuple)):
                below += one
            elif kind is int and one.bit_length() > _INTEGER_BITS:
                return "it holds an integer of more than 4,200 digits"
            else:
                total += len(one) if kind is bytes else 8
            # Looked at often, since the parts of a small value may refer to each other and stand for many.
            if total + 2 * len(below) > bounds.max_bytes:
                return f"it is larger than {bounds.max_bytes} bytes"
        depth, level = depth + 1, below
    return None


def escaped(value: Any) -> Any:
    """Returns a JSON value in the form that crosses Celery; the very same where it holds nothing to be escaped."""
    return _mapped(value, _escape) if _holds(value, _TYPED) else value


def unescaped(value: Any) -> Any:
    """Returns the value that :func:`escaped` was given."""
    return _mapped(value, _unescape) if _holds(value, _ESCAPED) else value


def dumps(value: Any, *, sort_keys: bool = False) -> str:
    """Returns a JSON value as text in which :func:`loads` finds it again; dates, decimals and bytes as Celery has them.

    Raises:
        TypeError, ValueError: it is nothing that a message could hold.
    """
    return kombu_dumps(escaped(value), sort_keys=sort_keys)


def loads(text: str | bytes) -> Any:
    """Returns the value that :func:`dumps` wrote.

    Raises:
        ValueError: it isn't JSON, or nested too deeply for Python's reader.
    """
    return unescaped(read_message(text))


def read_message(text: Any) -> Any:
    """Reads JSON as Celery does, but leaves an object alone that only looks like one of Celery's typed values.

    Raises:
        ValueError: it isn't JSON, or nested too deeply for Python's reader.
    """
    said = text if isinstance(text, str) else bytes(text).decode()
    try:
        # The hook calls into Python for each object, which only typed values need.
        return json.loads(said, object_hook=_typed) if _TYPE in said else json.loads(said)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _typed(found: dict[str, Any]) -> Any:
    if found.keys() != _TYPED or not isinstance(found[_TYPE], str):
        return found
    try:
        return kombu_hook(found)
    except Exception:  # noqa: BLE001 - kombu's readers raise whatever they like for what isn't of their type
        return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _holds(value: Any, keys: frozenset[str]) -> bool:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, (TypedObject, TypedList)):
            return True
        if isinstance(one, Mapping):
            if keys <= one.keys():
                return True
            left += cast("Mapping[Any, Any]", one).values()
        elif isinstance(one, (list, tuple)):
            left += one
    return False


def _mapped(value: Any, change: Callable[[Any, Any], Any]) -> Any:
    """Returns a value with each of its objects changed; the depth of values is bounded before."""
    if isinstance(value, Mapping):
        inside = {key: _mapped(one, change) for key, one in cast("Mapping[str, Any]", value).items()}
        return change(inside, value)
    if isinstance(value, (list, tuple)):
        items = [_mapped(one, change) for one in cast("list[Any]", value)]
        return change(items, value) if isinstance(value, TypedList) else items
    return value


def _escape(found: Any, was: Any) -> Any:
    if isinstance(was, (TypedObject, TypedList)):
        return {_TYPE: was.kind, _VALUE: found, _DATA: _KIND}
    if found.keys() == _TYPED:
        return {**found, _DATA: _ADDED}
    if found.keys() == _ESCAPED:
        return {**found, _DATA: {_DATA: found[_DATA]}}
    return found


def _unescape(found: Any, _: Any) -> Any:
    if found.keys() != _ESCAPED:
        return found
    said = found[_DATA]
    if isinstance(said, dict) and said.keys() == {_DATA}:
        return {**found, _DATA: said[_DATA]}
    if said == _KIND:
        inner = found[_VALUE]
        made = TypedList if isinstance(inner, list) else TypedObject if isinstance(inner, dict) else None
        return found if made is None else made(str(found[_TYPE]), cast("Any", inner))
    return {key: found[key] for key in found if key != _DATA} if said == _ADDED else found
