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

from snakepit_bridge.variables.codec import spelled

# In a pipe nobody sees a window's edge; rich would fold a table at 80 columns there.
_PIPE_COLUMNS = 200
_CELL = 100


@cache
def console() -> Console:
    """Returns the standard output. What users typed and LMs answered is text there, never markup."""
    wanted = Console(markup=False, highlight=False, emoji=False)
    return wanted if wanted.is_terminal else Console(width=_PIPE_COLUMNS, markup=False, highlight=False, emoji=False)


def say(text: str) -> None:
    """Prints text as it is, without folding it."""
    console().print(text, soft_wrap=True)


def line(text: str) -> str:
    """Returns a text as one line."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Returns a text without the control characters by which an LM's answer could steer the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def as_json(value: Any) -> str:
    """Returns a value as one line of JSON; NaN and the infinities are quoted, as variables spell them."""
    return json.dumps(_finite(value), ensure_ascii=False)


def as_text(value: Any) -> str:
    """Returns a text as it is, and any other value as JSON."""
    return printable(value) if isinstance(value, str) else as_json(value)


def cell(value: Any) -> str:
    """Returns a value in the length of a table's cell."""
    text = as_text(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}… ({len(text)} characters)"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", numbers: Iterable[str] = ()
) -> None:
    """Prints a table; the columns in ``numbers`` are aligned to the right."""
    drawn = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, justify="right" if column in set(numbers) else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(cell, row))
    console().print(drawn)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else spelled(value)
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in cast(Sequence[Any], value)]
    return value
