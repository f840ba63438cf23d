"""The outputs of a bulk run that are made at its end: CSV and Parquet files, and the lines that failed.

A file appears as a whole: it is written beside its place and then moved there.
"""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

from snakepit_bridge.client.bulk.records import BulkRecord, read_records
from snakepit_bridge.client.bulk.source import BulkSource
from snakepit_bridge.datasets.row_files import find_format, load_parquet, open_rows
from snakepit_bridge.exceptions import BulkError
from snakepit_bridge.protocol.json_values import repair_json
from snakepit_bridge.variables.codec import dump_json, parse

_ROWS_PER_GROUP = 10_000
# Columns that a row has besides its outputs.
_FIRST_COLUMNS = ("line", "id")
_LAST_COLUMNS = ("error", "error_message", "cost_usd", "token", "program", "version", "model", "task_id", "provenance")


def check_output(source: Path, output: Path, failed: Path | None) -> None:
    """Check whether a run can write its files.

    Raises:
        BulkError: two of its files are the same one, or one has a format that can't be written.
        DatasetError: the input can't be opened, or a suffix tells no format.
        ConfigurationError: the output is a Parquet file, and pyarrow isn't installed.
    """
    with open_rows(source):
        pass  # it is there
    if find_format(output).name == "parquet":
        load_parquet(output, "Writing")
    files = {"input": source, "output": output, **({"failed lines": failed} if failed is not None else {})}
    places: dict[Path, str] = {}
    for name, path in files.items():
        if (other := places.setdefault(path.resolve(), name)) != name:
            raise BulkError(f"{name} {path}", f"it is the {other} itself; name another file")
    if failed is not None and find_format(failed).name != "jsonl":
        raise BulkError(f"failed lines {failed}", "they are written as JSON lines; name a file that ends in .jsonl")
    if not output.parent.is_dir():
        raise BulkError(f"output {output}", f"there is no folder {output.parent}; create it")


def export_records(records: Path, output: Path) -> None:
    """Write records as a CSV or Parquet file, a row for each.

    Outputs have their own columns, in the order in which they first occur, and what produced them follows.

    Args:
        records: the file of records.
        output: the file to write.
    """
    names: dict[str, None] = {}
    for record in read_records(records):
        names.update(dict.fromkeys(parse(record.raw).get("outputs", ())))
    columns = _name_columns(list(names))

    def read() -> Iterator[dict[str, Any]]:
        return (_to_row(parse(record.raw), columns) for record in read_records(records))

    with _replace_whole(output) as path:
        write = _write_parquet if find_format(output).name == "parquet" else _write_csv
        write(path, [*_FIRST_COLUMNS, *columns.values(), *_LAST_COLUMNS], read)


def export_failed(source: BulkSource, records: Iterator[BulkRecord], path: Path) -> None:
    """Write the lines that failed as JSON lines, which are an input for another run.

    Their id is that of the line, or its number where it has none.

    Args:
        source: the input.
        records: the records, in the order of the lines.
        path: the file to write.
    """
    failed = (record.line for record in records if record.error)
    wanted = next(failed, None)
    with _replace_whole(path) as place, place.open("wb") as file:
        for line in source.lines():
            if wanted is None:
                break
            if line.number != wanted:
                continue
            wanted = next(failed, None)
            found = {"id": line.identity.get("id", line.number), "inputs": line.inputs or {}}
            file.write((dump_json(found) + "\n").encode(errors="backslashreplace"))


def _name_columns(outputs: list[str]) -> dict[str, str]:
    """Return the column of each output: its name, unless another column has that."""
    other = {*_FIRST_COLUMNS, *_LAST_COLUMNS}
    return {name: f"output_{name}" if name in other else name for name in outputs}


def _to_row(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    outputs, error, provenance = record.get("outputs", {}), record.get("error", {}), record.get("provenance", {})
    row: dict[str, Any] = {"line": record["line"], "id": record.get("id")}
    row |= {column: repair_json(outputs.get(name)) for name, column in columns.items()}
    row |= {"error": error.get("type"), "error_message": error.get("message")}
    row |= {name: provenance.get(name) for name in _LAST_COLUMNS[2:-1]}
    row["cost_usd"] = None if row["cost_usd"] is None else float(row["cost_usd"])
    return {**row, "provenance": dump_json(provenance) if provenance else None}


def _write_csv(path: Path, columns: list[str], read: Callable[[], Iterator[dict[str, Any]]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in read():
            writer.writerow([_to_text(row[name]) for name in columns])


def _write_parquet(path: Path, columns: list[str], read: Callable[[], Iterator[dict[str, Any]]]) -> None:
    """Write rows in groups, in the types that all rows have in common; a column that has none is JSON text."""
    arrow, parquet = cast(Any, importlib.import_module("pyarrow")), load_parquet(path, "Writing")
    kinds = dict.fromkeys(columns, arrow.null())
    for group in _split(read()):
        for name in columns:
            kinds[name] = _unify(arrow, kinds[name], [row[name] for row in group])
    schema = arrow.schema(list(kinds.items()))
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _split(read()):
            data = {name: _fit(arrow, [row[name] for row in group], kind) for name, kind in kinds.items()}
            writer.write_table(arrow.table(data, schema=schema))


def _unify(arrow: Any, kind: Any, values: list[Any]) -> Any:
    """Return a type for values of a type and further ones: text where they have none in common."""
    try:
        schemas = [arrow.schema([("value", each)]) for each in (kind, arrow.array(values).type)]
        found = arrow.unify_schemas(schemas, promote_options="permissive").field("value").type
    except (arrow.ArrowException, OverflowError):
        return arrow.string()
    # Parquet has no objects without fields.
    return arrow.string() if "struct<>" in str(found) else found


def _fit(arrow: Any, values: list[Any], kind: Any) -> Any:
    if kind == arrow.string():
        values = [value if value is None else _to_text(value) for value in values]
    return arrow.array(values, type=kind)


def _split(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, _ROWS_PER_GROUP)):
        yield group


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else dump_json(value)


@contextmanager
def _replace_whole(path: Path) -> Generator[Path]:
    """Yield a path to write to, whose file takes the place of another one once it is complete and durable."""
    staged = path.with_name(f"{path.name}.part")
    try:
        yield staged
        with staged.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as exc:
        raise BulkError(f"output {path}", f"it can't be written ({exc.strerror or exc}); check its path") from None
    os.replace(staged, path)
