"""Variable types: Elixir's eight types, and the conversion of Python values to them.

Every returned value is immutable, so that all tasks of a process can share one snapshot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral, Real
from typing import Any, cast

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.protocol.json_values import BOUNDS, find_problem
from snakepit_bridge.variables.codec import NON_FINITE, quote_non_finite, shorten_repr

# From here on floats don't represent every integer, so Elixir rejects them as integers.
_EXACT_FLOATS = 2**53
INTEGER_BITS = 14_000
"""Maximum size of integers: Python neither prints nor parses more than 4,300 digits."""


class VariableType(StrEnum):
    """Variable types by their names on the wire."""

    FLOAT = "float"
    INTEGER = "integer"
    STRING = "string"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    MODULE = "module"
    EMBEDDING = "embedding"
    TENSOR = "tensor"

    @classmethod
    def of(cls, name: str, value: str) -> VariableType:
        """Return the type with a wire name, for the variable ``name``.

        Raises:
            ValidationError: there is no such type.
        """
        try:
            return cls(value)
        except ValueError:
            rule = f"the types are {', '.join(cls)}"
            raise ValidationError(name, f"of type {shorten_repr(value)}", rule) from None


TEXT_TYPES = frozenset({VariableType.STRING, VariableType.CHOICE, VariableType.MODULE})


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's numbers, nested or flat as received, and its shape."""

    data: tuple[Any, ...]
    shape: tuple[int, ...]


def infer_type(name: str, value: Any) -> VariableType:
    """Return the default type of a Python value: string for a ``str``, embedding for a list of numbers.

    Raises:
        ValidationError: no variable type fits the value.
    """
    if isinstance(value, bool):
        return VariableType.BOOLEAN
    if isinstance(value, Integral):
        return VariableType.INTEGER
    if isinstance(value, Real):
        return VariableType.FLOAT
    if isinstance(value, str):
        return VariableType.STRING
    if isinstance(value, Tensor) or _is_tensor_mapping(value) or len(getattr(value, "shape", ())) > 1:
        return VariableType.TENSOR
    if isinstance(_to_list(value), list | tuple):
        return VariableType.EMBEDDING
    rule = f"no type of variable holds a {type(value).__name__}; the types are {', '.join(VariableType)}"
    raise ValidationError(name, shorten_repr(value), rule)


def coerce(name: str, kind: VariableType, value: Any) -> Any:
    """Convert a value to its type's representation: ints to floats, lists to tuples, ``"NaN"`` to the float.

    Raises:
        ValidationError: the value has another type, or is too deep or too large.
    """
    return _COERCIONS[kind](name, value)


def to_json(kind: VariableType, value: Any) -> Any:
    """Return the JSON form of a coerced value."""
    if kind is VariableType.TENSOR:
        return {"data": quote_non_finite(value.data), "shape": list(value.shape)}
    if kind in (VariableType.FLOAT, VariableType.EMBEDDING):
        return quote_non_finite(value)
    return value


def is_text(value: object) -> bool:
    """Check whether a value is a ``str`` without lone surrogates, which UTF-8 can't encode."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _float(name: str, value: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, str) and value in NON_FINITE:
        return NON_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValidationError(name, shorten_repr(value), f"a float is a number, not a {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValidationError(name, shorten_repr(value), "it is too large for a float") from None


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValidationError(name, shorten_repr(value), f"an integer is a whole number, not a {type(value).__name__}")
    if isinstance(value, Integral):
        whole = int(value)
        if whole.bit_length() > INTEGER_BITS:
            raise ValidationError(name, shorten_repr(value), "an integer has at most 4,200 digits")
        return whole
    number = float(value)
    if not number.is_integer():
        raise ValidationError(name, shorten_repr(value), "an integer is a whole number")
    if abs(number) >= _EXACT_FLOATS:
        raise ValidationError(name, shorten_repr(value), "a float this large is not exact; give it as an integer")
    return int(number)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValidationError(name, shorten_repr(value), f"it must be text, not a {type(value).__name__}")
    if not is_text(value):
        raise ValidationError(name, shorten_repr(value), "it holds a lone surrogate, which UTF-8 can't carry")
    if len(value) > BOUNDS.max_bytes:
        raise ValidationError(name, shorten_repr(value), f"it is larger than {BOUNDS.max_bytes} bytes")
    return str(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValidationError(name, shorten_repr(value), "a boolean is true or false")
    return value


def _embedding(name: str, value: Any) -> tuple[float, ...]:
    items = _to_list(value)
    if not isinstance(items, list | tuple):
        raise ValidationError(
            name, shorten_repr(value), f"an embedding is a list of numbers, not a {type(value).__name__}"
        )
    if 2 * len(cast("list[Any]", items)) > BOUNDS.max_bytes:
        raise ValidationError(name, shorten_repr(value), f"it is larger than {BOUNDS.max_bytes} bytes")
    return tuple(_float(name, item) for item in cast("list[Any]", items))


def _tensor(name: str, value: Any) -> Tensor:
    data, shape = _tensor_parts(name, value)
    if not isinstance(shape, list | tuple) or not all(_is_size(size) for size in cast("list[Any]", shape)):
        raise ValidationError(name, shorten_repr(value), "a tensor's shape is a list of sizes, like [2, 3]")
    if (problem := find_problem([data, list(cast("list[Any]", shape))], BOUNDS)) is not None:
        raise ValidationError(name, shorten_repr(value), problem)
    tensor = Tensor(_numbers(name, data), tuple(int(size) for size in cast("list[int]", shape)))
    if not _fits_shape(tensor.data, tensor.shape):
        rule = f"its data, nested or flat, must hold {math.prod(tensor.shape)} numbers in shape {list(tensor.shape)}"
        raise ValidationError(name, shorten_repr(value), rule)
    return tensor


def _tensor_parts(name: str, value: Any) -> tuple[Any, Any]:
    if isinstance(value, Tensor):
        return value.data, value.shape
    if _is_tensor_mapping(value):
        return _to_list(value["data"]), value["shape"]
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        return value.tolist(), tuple(value.shape)
    raise ValidationError(name, shorten_repr(value), 'a tensor is {"data": …, "shape": […]}')


def _numbers(name: str, data: Any) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise ValidationError(name, shorten_repr(data), "a tensor's data is a list of numbers, nested or flat")
    items = cast("list[Any]", data)
    return tuple(_numbers(name, item) if isinstance(item, list | tuple) else _number(name, item) for item in items)


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Integral):
        return _float(name, value)
    return _integer(name, value)


def _fits_shape(data: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    if not any(isinstance(item, tuple) for item in data):
        return len(data) == math.prod(shape)
    inner = shape[1:]
    return (
        bool(inner) and len(data) == shape[0] and all(isinstance(row, tuple) and _is_nested(row, inner) for row in data)
    )


def _is_nested(data: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    """Check nested data against a shape: below the outermost level it must be nested throughout."""
    if len(shape) == 1:
        return len(data) == shape[0] and not any(isinstance(item, tuple) for item in data)
    return len(data) == shape[0] and all(isinstance(row, tuple) and _is_nested(row, shape[1:]) for row in data)


def _to_list(value: Any) -> Any:
    """Convert arrays of numpy and torch by ``tolist``, without importing either."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_tensor_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and set(cast("Mapping[Any, Any]", value)) == {"data", "shape"}


def _is_size(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and 0 <= int(value) < _EXACT_FLOATS


_COERCIONS: dict[VariableType, Callable[[str, Any], Any]] = {
    VariableType.FLOAT: _float,
    VariableType.INTEGER: _integer,
    VariableType.STRING: _text,
    VariableType.BOOLEAN: _boolean,
    VariableType.CHOICE: _text,
    VariableType.MODULE: _text,
    VariableType.EMBEDDING: _embedding,
    VariableType.TENSOR: _tensor,
}
