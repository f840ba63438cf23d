"""Text that is valid Unicode: halves of a character are joined, and what is left over of one is replaced.

JSON can hold a half by itself (``"\\ud83d"``), and Python keeps it in a text that then can't be encoded: not for Redis,
nor for a protocol buffer or a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def valid_text(text: str) -> str:
    """Return a text with its halved characters joined, and U+FFFD for each half that is alone."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def valid_json(value: Any) -> Any:
    """Return a JSON value whose texts and keys are valid."""
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, Mapping):
        return {valid_json(key): valid_json(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list):
        return [valid_json(each) for each in cast("list[Any]", value)]
    return value


class Halves:
    """Joins a text that comes in pieces: half a character at the end of one is held back for the next."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what is whole of what came so far and wasn't returned before."""
        text, self._held = self._held + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return valid_text(text)

    def end(self) -> str:
        """Return what is left at the end: U+FFFD for half a character."""
        held, self._held = self._held, ""
        return _REPLACEMENT if held else ""
