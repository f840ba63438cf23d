"""Make values strict JSON: NaN and the infinities as strings, at any depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from snakepit_bridge.variables.codec import quote_non_finite


def to_strict_json(value: Any) -> Any:
    """Return a value of JSON types in which NaN and the infinities are strings, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): to_strict_json(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [to_strict_json(item) for item in cast("Sequence[Any]", value)]
    return quote_non_finite(value)
