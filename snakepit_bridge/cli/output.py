"""How values look on a terminal and in a pipe: tables for people, one line of JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, cast

from rich import box
from rich.console import Console
from rich.table import Table

from snakepit_bridge.variables.codec import quote_non_finite

# In a pipe nobody sees a window's edge; rich would fold a table at 80 columns there.
_PIPE_COLUMNS = 200
_CELL = 100


@cache
def console() -> Console:
    """Return the standard output. What users typed and LMs answered is text there, never markup."""
    wanted = Console(markup=False, highlight=False, emoji=False)
    return wanted if wanted.is_terminal else Console(width=_PIPE_COLUMNS, markup=False, highlight=False, emoji=False)


def echo(text: str) -> None:
    """Print text as it is, without folding it."""
    console().print(text, soft_wrap=True)


def to_one_line(text: str) -> str:
    """Return a text as one line."""
    return escape_control_chars(" ".join(text.split()))


def escape_control_chars(text: str) -> str:
    """Return a text without the control characters by which an LM's answer could steer the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def dump_json(value: Any) -> str:
    """Return a value as one line of JSON; NaN and the infinities are quoted, as variables spell them."""
    return json.dumps(_quote_non_finite(value), ensure_ascii=False)


def to_text(value: Any) -> str:
    """Return a text as it is, and any other value as JSON."""
    return escape_control_chars(value) if isinstance(value, str) else dump_json(value)


def to_cell(value: Any) -> str:
    """Return a value in the length of a table's cell."""
    text = to_text(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}… ({len(text)} characters)"


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", numbers: Iterable[str] = ()
) -> None:
    """Print a table; the columns in ``numbers`` are aligned to the right."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in set(numbers) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(to_cell, row))
    console().print(table)


def _quote_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else quote_non_finite(value)
    if isinstance(value, Mapping):
        return {name: _quote_non_finite(item) for name, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_quote_non_finite(item) for item in cast(Sequence[Any], value)]
    return value
