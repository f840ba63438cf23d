"""How pages are rendered: the templates' environment, and the filters that show values of users as text."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from snakepit_bridge.rollouts import units
from snakepit_bridge.rollouts.units import FORMATS, format_seconds
from snakepit_bridge.variables.codec import parse

_TEMPLATES = Path(__file__).parent / "templates"
MAX_CHARS = 400
"""Characters of a value that a page shows; the whole is a link away."""

_NONE = "\u2013"
_MINUTE_S = 60.0
# Joiners of emoji and of scripts, which change nothing but how their neighbours are drawn.
_SHOWN_FORMATS = frozenset("\u200c\u200d")


class PageRenderer:
    """Renders the console's templates. Whatever they show is escaped.

    Args:
        functions: what templates may call besides the filters, by name.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters: dict[str, Callable[..., Any]] = {
            "count": format_count,
            "duration": format_duration,
            "in_unit": format_in_unit,
            "iso": format_iso,
            "plain": format_plain,
            "percent": format_percent,
            "printable": escape_controls,
            "shortened": shorten,
            "value": format_value,
            "whole_value": format_whole_value,
        }
        self._environment.filters.update(filters)
        self._environment.globals |= functions

    def render(self, template: str, **values: Any) -> str:
        """Return a page.

        Args:
            template: its file.
            values: what it shows.
        """
        return self._environment.get_template(template).render(**values)


def format_iso(at: Timestamp | float) -> str:
    """Return a time in UTC as ``<time datetime>`` has it.

    Args:
        at: the time, or Unix seconds.
    """
    moment = at.ToDatetime(UTC) if isinstance(at, Timestamp) else datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_count(number: float | None) -> str:
    """Return a number with its thousands apart; a dash for None."""
    if number is None:
        return _NONE
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.2f}"


def format_duration(seconds: float | None) -> str:
    """Return a duration in the unit that suits it; a dash for None."""
    if seconds is None or not math.isfinite(seconds):
        return _NONE
    return format_seconds(seconds) if seconds < _MINUTE_S else units.format_duration(seconds)


def format_in_unit(number: float, unit: str) -> str:
    """Return a figure in the unit of a rollout's guard: ``share``, ``s``, ``USD`` or ``score``."""
    return FORMATS[unit](number)


def format_percent(share: float) -> str:
    """Return a share as percent."""
    return f"{100 * share:.3g} %"


def escape_controls(text: str) -> str:
    """Return a text with its invisible characters written out, so that none hides or turns round what follows.

    Args:
        text: any text; line breaks and tabs stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escape_control, text))


def _escape_control(char: str) -> str:
    if char in "\n\t" or char in _SHOWN_FORMATS or unicodedata.category(char) not in ("Cc", "Cf", "Co", "Cs"):
        return char
    return f"\\u{ord(char):04x}"


def shorten(text: str, max_chars: int = MAX_CHARS) -> str:
    """Return the beginning of a text, with an ellipsis if there is more.

    Args:
        text: the text.
        max_chars: its maximum length.
    """
    return text if len(text) <= max_chars else text[:max_chars].rstrip() + "…"


def format_value(text: bytes, max_chars: int = MAX_CHARS) -> str:
    """Return the beginning of a value of JSON as a page shows it: text without its quotes, anything else as it is.

    Args:
        text: the value as JSON.
        max_chars: how much is shown.
    """
    # A character has at most 12 bytes in JSON; what can't be shown isn't parsed.
    if len(text) > 12 * max_chars:
        return escape_controls(shorten(text[: 12 * max_chars].decode(errors="replace").strip('"'), max_chars))
    return escape_controls(shorten(format_whole_value(text), max_chars))


def format_plain(value: Any, max_chars: int = MAX_CHARS) -> str:
    """Return the beginning of a JSON value that has been parsed: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escape_controls(shorten(text, max_chars))


def format_whole_value(text: bytes) -> str:
    """Return a value of JSON as text: text without its quotes, anything else as it is."""
    decoded = text.decode(errors="replace")
    if not decoded.startswith('"'):
        return decoded
    try:
        value = parse(decoded)
    except ValueError:
        return decoded
    return value if isinstance(value, str) else decoded
