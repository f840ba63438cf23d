"""Canonical JSON: one encoding per value, so that values are equal exactly if their bytes are.

The store compares and keeps variables as opaque bytes, because Redis's own JSON changes numbers. All encoding and
decoding therefore happens here, with Elixir's notation for what JSON lacks: the strings ``"NaN"``, ``"Infinity"`` and
``"-Infinity"``.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def encode_canonical(value: Any) -> bytes:
    """Encode a value of JSON types and finite numbers as canonical JSON in UTF-8.

    Raises:
        ValueError: the value holds a non-finite float (see ``quote_non_finite``) or a lone surrogate, or is nested too
            deeply.
        TypeError: the value holds a type that JSON lacks.
    """
    return _encode(_ENCODER, value)


def encode_json(value: Any) -> bytes:
    """Encode a value as :func:`encode_canonical` does, but with the keys in their own order.

    Raises:
        ValueError: the value holds a non-finite float or a lone surrogate, or is nested too deeply.
        TypeError: the value holds a type that JSON lacks.
    """
    return _encode(_WRITER, value)


def parse(data: bytes | str) -> Any:
    """Decode JSON.

    Raises:
        ValueError: the text isn't JSON (unquoted ``NaN`` and ``Infinity`` aren't), or is nested too deeply.
    """
    try:
        return _DECODER.decode(data if isinstance(data, str) else data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _encode(encoder: json.JSONEncoder, value: Any) -> bytes:
    try:
        return encoder.encode(value).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def quote_non_finite(value: Any) -> Any:
    """Return a JSON value with NaN and infinities as strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _quoted_form(value)
    if isinstance(value, list | tuple):
        return [quote_non_finite(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, Mapping):
        return {name: quote_non_finite(item) for name, item in cast("Mapping[str, Any]", value).items()}
    return value


def dump_json(value: Any) -> str:
    """Return a value as one line of JSON for people and files; NaN and the infinities are quoted."""
    return json.dumps(quote_non_finite(value), ensure_ascii=False)


def shorten_repr(value: Any) -> str:
    """Return a value's repr, truncated for an error message."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python refuses to print an integer of more than 4,300 digits.
        return "a value too large to print"


def _quoted_form(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; it travels in quotes")


_DECODER = json.JSONDecoder(parse_constant=_reject_constant)
