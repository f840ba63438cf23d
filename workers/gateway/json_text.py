"""Make values strict JSON: NaN and the infinities as strings, at any depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from snakepit_bridge.variables.codec import spelled


def quote_non_finite(value: Any) -> Any:
    """Return a value of JSON types in which NaN and the infinities are strings, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): quote_non_finite(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [quote_non_finite(item) for item in cast("Sequence[Any]", value)]
    return spelled(value)
