"""JSON values of users, encoded so that they survive Celery's message format unchanged.

Celery's JSON gives an object with exactly the keys ``__type__`` and ``__value__`` a meaning: it is how dates, decimals
and bytes are encoded. A user's object with exactly these keys gets a third one, ``__data__``, before it is written, so
that Celery leaves it alone, and loses it again when it is read. All other objects are sent as they are.

The same third key carries types that JSON lacks and that matter to a prompt: that an object was a ``dspy.Image``, or a
list a tuple (:class:`TypedObject`, :class:`TypedList`). User data can't be mistaken for them, since an object with all
three keys is escaped as well.

JSON can hold a lone surrogate, half of a pair, and Python keeps it in a string that then can't be encoded for Redis, a
protocol buffer or a terminal: ``repair_text`` and its kin join pairs and replace lone ones.
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
# The value of `__data__` where it was added. If the data had such a key itself, an object wraps that key's value.
_PLAIN = 0
_SCALARS = frozenset({str, int, float, bool, type(None)})
_KIND = "kind"
# Python neither prints nor parses integers of more than 4,300 digits.
_INTEGER_BITS = 14_000


@dataclass(frozen=True, slots=True)
class ValueBounds:
    """Size limits of a value that is sent to the fleet.

    Attributes:
        depth: maximum levels of nested objects and lists.
        max_bytes: approximate maximum size as JSON, in bytes.
    """

    depth: int = 100
    max_bytes: int = 64 * 1024 * 1024


class TypedObject(dict[str, Any]):
    """An object that had a known type before it became JSON.

    Attributes:
        kind: the type's name, such as ``dspy.Image``.
    """

    def __init__(self, kind: str, parts: Mapping[str, Any]) -> None:
        super().__init__(parts)
        self.kind = kind


class TypedList(list[Any]):
    """A list that had another type before it became JSON.

    Attributes:
        kind: the type's name, such as ``tuple``.
    """

    def __init__(self, kind: str, items: Iterable[Any]) -> None:
        super().__init__(items)
        self.kind = kind


BOUNDS = ValueBounds()
"""The default bounds."""


def find_problem(value: Any, bounds: ValueBounds) -> str | None:
    """Return why a value can't be sent (too deep, too large, or not valid UTF-8), or None if it can.

    Runs for every request, most of which are small: no recursion, and the exact types are tested first.
    """
    total, depth, level = 0, 0, [value]
    while level:
        if depth > bounds.depth:
            return f"it is nested deeper than {bounds.depth} levels"
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                total += len(item) + 2
                if not item.isascii() and not _is_utf8(item):
                    return "it holds a lone surrogate, which UTF-8 can't carry"
            elif isinstance(item, Mapping):
                below += cast("Mapping[Any, Any]", item)
                below += cast("Mapping[Any, Any]", item).values()
            elif isinstance(item, (list, tuple)):
                below += item
            elif kind is int and item.bit_length() > _INTEGER_BITS:
                return "it holds an integer of more than 4,200 digits"
            else:
                total += len(item) if kind is bytes else 8
            # Checked at every item: a small value may refer to the same parts many times and expand to a huge one.
            if total + 2 * len(below) > bounds.max_bytes:
                return f"it is larger than {bounds.max_bytes} bytes"
        depth, level = depth + 1, below
    return None


def escape(value: Any) -> Any:
    """Return a JSON value escaped for Celery; the same object if there is nothing to escape."""
    return _map_objects(value, _escape) if _contains_keys(value, _TYPED) else value


def unescape(value: Any) -> Any:
    """Return the value that was passed to :func:`escape`."""
    return _map_objects(value, _unescape) if _contains_keys(value, _ESCAPED) else value


def dumps(value: Any, *, sort_keys: bool = False) -> str:
    """Encode a JSON value as text for :func:`loads`; dates, decimals and bytes in Celery's encoding.

    Raises:
        TypeError, ValueError: a message can't hold the value.
    """
    return kombu_dumps(escape(value), sort_keys=sort_keys)


def loads(text: str | bytes) -> Any:
    """Decode text that was written by :func:`dumps`.

    Raises:
        ValueError: the text isn't JSON, or is nested too deeply for Python's parser.
    """
    return unescape(read_message(text))


def read_message(text: Any) -> Any:
    """Decode JSON as Celery does, but leave objects alone that only look like one of Celery's typed values.

    Raises:
        ValueError: the text isn't JSON, or is nested too deeply for Python's parser.
    """
    decoded = text if isinstance(text, str) else bytes(text).decode()
    try:
        # The hook is a Python call per object, which only typed values need.
        return json.loads(decoded, object_hook=_decode_typed) if _TYPE in decoded else json.loads(decoded)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _decode_typed(found: dict[str, Any]) -> Any:
    if found.keys() != _TYPED or not isinstance(found[_TYPE], str):
        return found
    try:
        return kombu_hook(found)
    except Exception:  # noqa: BLE001 - kombu's decoders may raise anything for a value of the wrong type
        return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _contains_keys(value: Any, keys: frozenset[str]) -> bool:
    left = [value]
    while left:
        item = left.pop()
        if type(item) in _SCALARS:
            continue
        if isinstance(item, (TypedObject, TypedList)):
            return True
        if isinstance(item, Mapping):
            if keys <= item.keys():
                return True
            left += cast("Mapping[Any, Any]", item).values()
        elif isinstance(item, (list, tuple)):
            left += item
    return False


def _map_objects(value: Any, change: Callable[[Any, Any], Any]) -> Any:
    """Return a value with a function applied to each of its objects; the caller has bounded the depth."""
    if isinstance(value, Mapping):
        members = {key: _map_objects(item, change) for key, item in cast("Mapping[str, Any]", value).items()}
        return change(members, value)
    if isinstance(value, (list, tuple)):
        items = [_map_objects(item, change) for item in cast("list[Any]", value)]
        return change(items, value) if isinstance(value, TypedList) else items
    return value


def _escape(found: Any, was: Any) -> Any:
    if isinstance(was, (TypedObject, TypedList)):
        return {_TYPE: was.kind, _VALUE: found, _DATA: _KIND}
    if found.keys() == _TYPED:
        return {**found, _DATA: _PLAIN}
    if found.keys() == _ESCAPED:
        return {**found, _DATA: {_DATA: found[_DATA]}}
    return found


def _unescape(found: Any, _: Any) -> Any:
    if found.keys() != _ESCAPED:
        return found
    data = found[_DATA]
    if isinstance(data, dict) and data.keys() == {_DATA}:
        return {**found, _DATA: data[_DATA]}
    if data == _KIND:
        inner = found[_VALUE]
        typed = TypedList if isinstance(inner, list) else TypedObject if isinstance(inner, dict) else None
        return found if typed is None else typed(str(found[_TYPE]), cast("Any", inner))
    return {key: found[key] for key in found if key != _DATA} if data == _PLAIN else found


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def repair_text(text: str) -> str:
    """Return a text with surrogate pairs joined and each lone surrogate replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def repair_json(value: Any) -> Any:
    """Return a JSON value with all strings and keys repaired."""
    if isinstance(value, str):
        return repair_text(value)
    if isinstance(value, Mapping):
        return {repair_json(key): repair_json(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list):
        return [repair_json(each) for each in cast("list[Any]", value)]
    return value


class SurrogateJoiner:
    """Joins surrogate pairs across the chunks of a text: a high surrogate at the end of one waits for the next."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the complete text so far that hasn't been returned yet."""
        text, self._held = self._held + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return repair_text(text)

    def flush(self) -> str:
        """Return the rest at the end of the text: U+FFFD for a lone surrogate."""
        held, self._held = self._held, ""
        return _REPLACEMENT if held else ""
