"""What a request tells of itself, for rollouts and experiments: its targeting key and its attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

MAX_KEY_BYTES = 1_024
"""Bytes of a targeting key in UTF-8."""

MAX_ATTRIBUTES = 32
"""How many attributes a request may have."""

MAX_ATTRIBUTE_CHARACTERS = 256
"""Characters of an attribute's name, and of its value."""

AttributeValue = str | int | float | bool
Attributes = Mapping[str, AttributeValue]
"""What is known of a request's origin, such as a user's plan or country, by name."""


def check_key(key: object) -> str:
    """Return the key if it is a valid targeting key.

    Raises:
        ValueError: it isn't text, is empty, too long or not valid UTF-8.
    """
    if not isinstance(key, str) or not key:
        raise ValueError(f"A targeting key is text that isn't empty; got {type(key).__name__} {str(key)[:20]!r}.")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError("A targeting key is valid UTF-8; got half of a surrogate pair.") from None
    if size > MAX_KEY_BYTES:
        raise ValueError(f"A targeting key has at most {MAX_KEY_BYTES} bytes; got {size}.")
    return key


def check_attributes(attributes: object) -> Attributes:
    """Return the attributes if they are valid.

    Raises:
        ValueError: they aren't a mapping of names to text, numbers and booleans, or there are too many.
    """
    if not isinstance(attributes, Mapping):
        raise ValueError(f"Attributes are a mapping of names to values; got {type(attributes).__name__}.")
    given = cast("Mapping[Any, Any]", attributes)
    if len(given) > MAX_ATTRIBUTES:
        raise ValueError(f"A request has at most {MAX_ATTRIBUTES} attributes; got {len(given)}.")
    for name, value in given.items():
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ATTRIBUTE_CHARACTERS:
            raise ValueError(
                f"An attribute's name is text of at most {MAX_ATTRIBUTE_CHARACTERS} characters; got {str(name)[:20]!r}."
            )
        if not _is_value(value):
            raise ValueError(
                f"Attribute '{name[:40]}' is text of at most {MAX_ATTRIBUTE_CHARACTERS} characters, a finite number or "
                f"a boolean; got {type(value).__name__}."
            )
    return dict(given)


def _is_value(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ATTRIBUTE_CHARACTERS
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond what a float can hold
        return False
