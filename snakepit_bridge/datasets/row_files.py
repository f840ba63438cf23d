"""Rows of files of any length, one after the other: JSON lines, CSV and Parquet, chosen by the file's suffix.

Nothing of a file is kept but the row that is read, so that a file may be larger than memory.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from snakepit_bridge.exceptions import ConfigurationError, DatasetError
from snakepit_bridge.variables.codec import parse

_ROWS_PER_READ = 1_000
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of a file.

    Attributes:
        number: counted from 1: a line of the file, blank ones included, or a row of a Parquet file.
        value: what it says; of CSV and Parquet an object of column to value.
        problem: why it can't be read; empty if it can.
    """

    number: int
    value: Any = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A format of files.

    Attributes:
        name: ``jsonl``, ``csv`` or ``parquet``.
        read: yields the rows of a file that come after a number.
        columns: returns the names of a file's columns; None if each row has its own.
        count: returns how many rows a file has.
    """

    name: str
    read: Callable[[Path, int], Iterator[FileRow]]
    columns: Callable[[Path], list[str] | None]
    count: Callable[[Path], int]

    def place(self, path: Path, number: int) -> str:
        """Return where a row is, for errors."""
        return f"{path}: row {number}" if self.name == "parquet" else f"{path}:{number}"


def find_format(path: Path) -> RowFormat:
    """Return the format that a file's suffix names.

    Raises:
        DatasetError: it names none.
    """
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        problem = f"its suffix tells no format; name a file that ends in {', '.join(FORMATS)}"
        raise DatasetError(str(path), problem)
    return found


def load_parquet(path: Path, doing: str = "Reading") -> Any:
    """Return the module ``pyarrow.parquet``.

    Args:
        path: the file that needs it.
        doing: what is done with the file, for the error.

    Raises:
        ConfigurationError: pyarrow isn't installed.
    """
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as exc:
        raise ConfigurationError(
            f"{doing} {path} needs pyarrow ({exc}). Install it: pip install 'dspex-fleet[parquet]'; or use JSON lines."
        ) from None


def _read_jsonl(path: Path, after: int) -> Iterator[FileRow]:
    with open_rows(path) as file:
        for number, line in enumerate(file, 1):
            if number <= after or not line.strip():
                continue
            try:
                row = FileRow(number, parse(line.strip().removeprefix(_BOM)))
            except ValueError as exc:
                row = FileRow(number, problem=f"it isn't JSON ({exc}); write one object on each line")
            yield row


def _count_jsonl(path: Path) -> int:
    with open_rows(path) as file:
        return sum(1 for line in file if line.strip())


def _read_csv(path: Path, after: int) -> Iterator[FileRow]:
    with _csv_lines(path) as lines:
        names = next(lines, [])
        _check_header(names, f"{path}:1")
        for values in lines:
            if values and lines.line_num > after:
                yield _to_row(lines.line_num, names, values)


def _count_csv(path: Path) -> int:
    return sum(1 for _ in _read_csv(path, 0))


def _read_header(path: Path) -> list[str]:
    with _csv_lines(path) as lines:
        names = next(lines, [])
    _check_header(names, f"{path}:1")
    return names


def _to_row(number: int, names: list[str], values: list[str]) -> FileRow:
    if len(values) != len(names):
        problem = f"it has {len(values)} fields, and the first line {len(names)}; quote fields with commas"
        return FileRow(number, problem=problem)
    return FileRow(number, dict(zip(names, values, strict=True)))


@contextmanager
def _csv_lines(path: Path) -> Generator[Any]:
    """Yield a reader of a file.

    Raises:
        DatasetError: the file can't be opened, or isn't CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            try:
                yield lines
            except UnicodeDecodeError as exc:
                place = f"{path}:{lines.line_num + 1}"
                raise DatasetError(place, f"it isn't UTF-8 ({exc.reason}); convert it") from None
            except csv.Error as exc:
                problem = f"it isn't CSV ({exc}); quote fields with commas, quotes or line breaks, or use JSON lines"
                raise DatasetError(f"{path}:{lines.line_num}", problem) from None
    except OSError as exc:
        raise _open_error(path, exc) from None


def _check_header(names: list[str], place: str) -> None:
    if not names:
        raise DatasetError(place, "it is empty; the first line has the names of the fields")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(place, f"two columns are named {twice[0]!r}; rename one of them")


def _read_parquet(path: Path, after: int) -> Iterator[FileRow]:
    with _parquet_file(path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS_PER_READ):
            if number + batch.num_rows > after:
                for place, values in enumerate(batch.to_pylist(), number + 1):
                    if place > after:
                        yield FileRow(place, {name: _from_column(value) for name, value in values.items()})
            number += batch.num_rows


def _count_parquet(path: Path) -> int:
    with _parquet_file(path) as file:
        return int(file.metadata.num_rows)


def _read_schema(path: Path) -> list[str]:
    with _parquet_file(path) as file:
        return list(file.schema_arrow.names)


@contextmanager
def _parquet_file(path: Path) -> Generator[Any]:
    """Yield a file that is open.

    Raises:
        DatasetError: it can't be opened, or isn't a Parquet file.
        ConfigurationError: pyarrow isn't installed.
    """
    parquet, arrow = load_parquet(path), cast(Any, importlib.import_module("pyarrow"))
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except arrow.ArrowException as exc:
        raise DatasetError(str(path), f"it isn't a Parquet file that can be read ({exc})") from None
    except OSError as exc:
        raise _open_error(path, exc) from None


def _from_column(value: Any) -> Any:
    """Return a value of a Parquet column as JSON: dates and times in ISO 8601, decimal numbers as text."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, list):
        return [_from_column(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _from_column(item) for name, item in cast("dict[str, Any]", value).items()}
    return value


@contextmanager
def open_rows(path: Path) -> Generator[BufferedReader]:
    """Open a file of rows.

    Raises:
        DatasetError: it can't be opened.
    """
    try:
        with path.open("rb") as file:
            yield file
    except OSError as exc:
        raise _open_error(path, exc) from None


def _open_error(path: Path, exc: OSError) -> DatasetError:
    return DatasetError(str(path), f"it can't be opened ({exc.strerror or exc}); check its path")


_JSONL = RowFormat("jsonl", _read_jsonl, lambda _: None, _count_jsonl)

FORMATS: dict[str, RowFormat] = {
    ".jsonl": _JSONL,
    ".ndjson": _JSONL,
    ".csv": RowFormat("csv", _read_csv, _read_header, _count_csv),
    ".parquet": RowFormat("parquet", _read_parquet, _read_schema, _count_parquet),
}
"""The formats, by suffix."""
