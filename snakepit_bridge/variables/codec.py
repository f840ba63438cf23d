"""Canonical JSON: one text per value, so that two values are equal exactly when their bytes are.

The store compares and keeps variables as opaque bytes, because Redis' own JSON changes numbers. All of the writing and
reading therefore happens here, with the notation that Elixir uses for what JSON lacks: ``"NaN"``, ``"Infinity"`` and
``"-Infinity"`` are strings.
"""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any, NoReturn

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80


def canonical(value: Any) -> bytes:
    """Returns the one JSON text of a value that is made of JSON types and finite numbers, as UTF-8.

    Raises:
        ValueError: a float that isn't finite (pass it through ``spelled`` first), text with a lone surrogate, or a
            value that is nested too deeply.
        TypeError: something that JSON has no form for.
    """
    return _encoded(_ENCODER, value)


def written(value: Any) -> bytes:
    """Returns a JSON text of a value as :func:`canonical` does, with the keys in the value's own order.

    Raises:
        ValueError: a float that isn't finite, text with a lone surrogate, or a value that is nested too deeply.
        TypeError: something that JSON has no form for.
    """
    return _encoded(_WRITER, value)


def parse(data: bytes | str) -> Any:
    """Returns the value of a JSON text.

    Raises:
        ValueError: it isn't JSON, or nested too deeply; ``NaN`` and ``Infinity`` without quotes aren't JSON either.
    """
    try:
        return _DECODER.decode(data if isinstance(data, str) else data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _encoded(encoder: json.JSONEncoder, value: Any) -> bytes:
    try:
        return encoder.encode(value).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def spelled(value: Any) -> Any:
    """Returns a number, or nested sequences of numbers, with NaN and the infinities in their quoted form."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _spelling(value)
    if isinstance(value, list | tuple):
        return [spelled(item) for item in value]
    return value


def shown(value: Any) -> str:
    """Returns a value as an error message shows it: its repr, cut off where a reader would stop."""
    try:
        return _SHOWN.repr(value)
    except ValueError:  # Python refuses to print an integer of more than 4,300 digits.
        return "a value too large to print"


def _spelling(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; it travels in quotes")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
