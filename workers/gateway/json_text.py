"""JSON as the gateway writes it: NaN and the infinities in quotes, at any depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from snakepit_bridge.variables.codec import spelled


def quote_non_finite(value: Any) -> Any:
    """Returns a value of JSON types with NaN and the infinities in quotes, wherever they stand."""
    if isinstance(value, Mapping):
        return {str(key): quote_non_finite(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [quote_non_finite(item) for item in cast("Sequence[Any]", value)]
    return spelled(value)
