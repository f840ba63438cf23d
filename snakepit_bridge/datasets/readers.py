"""Readers of files of examples: JSON lines, CSV and Parquet, chosen by the file's suffix.

A line of a ``.jsonl`` file is an object of field to value. Its first line may be ``{"$inputs": ["question"]}``, which
marks the input fields; ``dataset export`` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, cast

from snakepit_bridge.datasets.dataset import MAX_BYTES, MAX_ROWS, Dataset
from snakepit_bridge.datasets.row_files import find_format
from snakepit_bridge.datasets.rows import Row, to_row
from snakepit_bridge.exceptions import DatasetError
from snakepit_bridge.variables.codec import encode_json

INPUTS_KEY = "$inputs"
"""The only key of a first line that marks the input fields."""


@dataclass(slots=True)
class ExampleFile:
    """What a file of examples has.

    Attributes:
        rows: each example's row, with its place for errors: ``FILE:LINE``.
        inputs: the input fields that the file marks; None if it marks none.
    """

    rows: list[tuple[str, Row]]
    inputs: Sequence[str] | None = None


def read_dataset(name: str, path: Path, *, inputs: Sequence[str] | None = None) -> Dataset:
    """Return a file's examples as a dataset, which isn't stored.

    Args:
        name: of the dataset.
        path: of a ``.jsonl``, ``.csv`` or ``.parquet`` file.
        inputs: the input fields, an empty list for none; None for those that the file marks.

    Raises:
        DatasetError: the file can't be read, or an example can't be; it names the file and the line.
        ConfigurationError: it is a Parquet file, and pyarrow isn't installed.
    """
    file = read_file(path)
    return Dataset.of_rows(name, file.rows, file.inputs if inputs is None else inputs)


def read_file(path: Path) -> ExampleFile:
    """Return a file's examples.

    Raises:
        DatasetError: the file can't be read, or an example can't be; it names the file and the line.
        ConfigurationError: it is a Parquet file, and pyarrow isn't installed.
    """
    format_ = find_format(path)
    _check_size(path)
    found = ExampleFile([])
    for row in format_.read(path, 0):
        place = format_.place(path, row.number)
        if row.problem:
            raise DatasetError(place, row.problem)
        if format_.name == "jsonl" and not found.rows and _marks_inputs(row.value):
            found.inputs = _check_marked(row.value[INPUTS_KEY], place)
            continue
        if len(found.rows) >= MAX_ROWS:
            raise DatasetError(place, f"a dataset has {MAX_ROWS} examples at most; split the file")
        found.rows.append((place, to_row(row.value, place)))
    return found


def encode_jsonl(dataset: Dataset) -> Iterator[bytes]:
    """Yield the lines of a ``.jsonl`` file with a dataset's examples, the first of which marks the inputs.

    Images, dates and the like become what JSON has for them.
    """
    optional = dataset.optional_inputs
    yield encode_json({INPUTS_KEY: [f"{name}?" if name in optional else name for name in dataset.inputs]}) + b"\n"
    for row in dataset.rows:
        yield encode_json({name: _to_json(row[name]) for name in dataset.fields if name in row}) + b"\n"


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as exc:
        raise DatasetError(str(path), f"it can't be opened ({exc.strerror or exc}); check its path") from None
    # Names of fields are repeated in each line of JSON, and text is escaped: only what is far larger can't fit.
    if size > 4 * MAX_BYTES:
        raise DatasetError(str(path), f"it has {size} bytes, and a dataset {MAX_BYTES} at most; split it")


def _marks_inputs(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {INPUTS_KEY}


def _check_marked(value: object, place: str) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in cast("list[Any]", value)):
        raise DatasetError(place, f"{INPUTS_KEY} is a list of the input fields' names")
    return cast("list[str]", value)


def _to_json(value: Any) -> Any:
    """Return a row's value as plain JSON."""
    if isinstance(value, dict):
        return {name: _to_json(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_to_json(item) for item in cast("list[Any]", value)]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float) else str(value)
