r"""Repair of lone surrogates: pairs are joined, and a half without its other half is replaced.

JSON can hold a lone surrogate (``"\ud83d"``), and Python keeps it in a string that then can't be encoded for Redis, a
protocol buffer or a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

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
