"""Rows: the examples of a dataset as mappings of field to JSON value, and the one line of text that each is stored as.

Equal rows have equal lines: a row's fields are sorted. Objects within a value keep the order of their keys, since a
prompt shows it. What JSON lacks and a request can carry, such as an image, a date or a tuple, is encoded as there.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from typing import Any, cast

from snakepit_bridge.exceptions import DatasetError
from snakepit_bridge.protocol.json_values import ValueBounds, dumps, loads
from snakepit_bridge.protocol.plain_values import UnfitValueError, revive, to_plain_value

Row = Mapping[str, Any]
"""An example's fields."""

MAX_ROW_BYTES = 1024 * 1024
"""The largest row, in bytes of its line."""

MAX_FIELDS, MAX_FIELD_CHARACTERS = 200, 100
"""The most fields of a row, and the longest name of a field."""

_BOUNDS = ValueBounds(depth=100, max_bytes=MAX_ROW_BYTES)
# DSPy's own datasets mark examples by such fields, with ids drawn at random; `Example.items` doesn't show them.
_DSPY_PREFIX = "dspy_"


def to_row(example: object, place: str) -> dict[str, Any]:
    """Return the row of a mapping or of a ``dspy.Example``.

    Args:
        example: the example.
        place: where it comes from, for errors: ``FILE:LINE``, or ``example 3 of 'golden'``.

    Raises:
        DatasetError: it is neither, or a field or a value can't be stored.
    """
    fields = dict(cast(Any, example).items()) if _is_example(example) else example
    if not isinstance(fields, Mapping):
        raise DatasetError(place, f"it must be an object or a dspy.Example, not a {type(example).__name__}")
    row = {_check_field(name, place): value for name, value in cast("Mapping[Any, Any]", fields).items()}
    if not row:
        raise DatasetError(place, "it has no fields")
    if len(row) > MAX_FIELDS:
        raise DatasetError(place, f"it has {len(row)} fields, and {MAX_FIELDS} is the most")
    return {name: _to_plain(name, value, place) for name, value in row.items()}


def find_inputs(example: object) -> tuple[str, ...] | None:
    """Return the input fields that a ``dspy.Example`` marks by ``with_inputs``; None if it marks none."""
    keys: set[str] | None = getattr(example, "_input_keys", None) if _is_example(example) else None
    return None if keys is None else tuple(name for name in cast(Any, example) if name in keys)


def encode_row(row: Row, place: str) -> bytes:
    """Return a row's line.

    Raises:
        DatasetError: the row is too large.
    """
    line = dumps({name: row[name] for name in sorted(row)}).encode()
    if len(line) > MAX_ROW_BYTES:
        raise DatasetError(place, f"it has {len(line)} bytes as JSON, and {MAX_ROW_BYTES} is the most")
    return line


def decode_row(line: bytes) -> dict[str, Any]:
    """Return the row of a line."""
    return cast("dict[str, Any]", loads(line))


def digest_row(line: bytes) -> str:
    """Return the digest of a row, by its line."""
    return hashlib.sha256(line).hexdigest()


def to_example(row: Row, inputs: tuple[str, ...]) -> Any:
    """Return a row as a ``dspy.Example`` with its inputs marked, and its images and similar values restored."""
    import dspy

    return dspy.Example({name: revive(value) for name, value in row.items()}).with_inputs(*inputs)


def _is_example(example: object) -> bool:
    dspy = sys.modules.get("dspy")
    return dspy is not None and isinstance(example, dspy.Example)


def _check_field(name: object, place: str) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_FIELD_CHARACTERS:
        problem = f"a field's name is 1 to {MAX_FIELD_CHARACTERS} printable characters; got {str(name)[:120]!r}"
        raise DatasetError(place, problem)
    if name.startswith(_DSPY_PREFIX):
        raise DatasetError(place, f"DSPy hides fields whose names begin with {_DSPY_PREFIX!r}; rename {name!r}")
    return name


def _to_plain(name: str, value: Any, place: str) -> Any:
    try:
        plain = to_plain_value(value, _BOUNDS)
    except UnfitValueError as exc:
        raise DatasetError(place, f"field '{name}': {exc}") from None
    if _has_non_finite(plain):
        problem = f"field '{name}' has a number that isn't finite, which JSON lacks; use null or text instead"
        raise DatasetError(place, problem)
    return plain


def _has_non_finite(value: Any) -> bool:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, Mapping):
            left += cast("Mapping[str, Any]", item).values()
        elif isinstance(item, list):
            left += cast("list[Any]", item)
    return False
