"""How values look on a terminal and in a pipe: tables for people, one line of JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from snakepit_bridge.variables.codec import dump_json

# In a pipe nobody sees a window's edge; rich would fold a table at 80 columns there.
_PIPE_COLUMNS = 200
_CELL = 100


@dataclass(frozen=True, slots=True)
class Whole:
    """A cell whose text isn't cut, since its parts were."""

    text: str


@cache
def console() -> Console:
    """Return the standard output. What users typed and LMs answered is text there, never markup."""
    wanted = Console(markup=False, highlight=False, emoji=False)
    return wanted if wanted.is_terminal else Console(width=_PIPE_COLUMNS, markup=False, highlight=False, emoji=False)


def echo(text: str) -> None:
    """Print text as it is, without folding it."""
    console().print(text, soft_wrap=True)


def echo_aside(text: str) -> None:
    """Print a line for people on the standard error, so that the standard output stays what a program reads."""
    sys.stderr.write(f"{text}\n")


def to_one_line(text: str) -> str:
    """Return a text as one line."""
    return escape_control_chars(" ".join(text.split()))


def escape_control_chars(text: str) -> str:
    """Return a text without the control characters by which an LM's answer could steer the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def to_text(value: Any) -> str:
    """Return a text as it is, and any other value as JSON."""
    return escape_control_chars(value) if isinstance(value, str) else dump_json(value)


def to_cell(value: Any) -> str:
    """Return a value in the length of a table's cell."""
    if isinstance(value, Whole):
        return escape_control_chars(value.text)
    text = to_text(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}… ({len(text)} characters)"


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str = "",
    numbers: Iterable[str] = (),
    unbroken: Iterable[str] = (),
) -> None:
    """Print a table.

    Args:
        columns: their heads.
        rows: their cells.
        title: above it.
        numbers: columns that are aligned to the right.
        unbroken: columns whose cells stay in one line, such as tokens, which people copy.
    """
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify = "right" if column in set(numbers) else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in set(unbroken))
    for row in rows:
        table.add_row(*map(to_cell, row))
    console().print(table)
