"""The files that are made at a run's end: columns for outputs, in types that all rows have."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.client.bulk.export import check_output, export_failed, export_records
from snakepit_bridge.client.bulk.records import read_records
from snakepit_bridge.client.bulk.source import BulkSource
from snakepit_bridge.exceptions import BulkError

PROVENANCE = {"cost_usd": "0.000125", "token": "5.1", "program": "qa", "version": 3, "model": "m", "task_id": "t"}
RECORDS: list[dict[str, Any]] = [
    {"line": 1, "outputs": {"answer": 'a, "b"\nc', "score": 1, "line": "x"}, "provenance": PROVENANCE},
    {"line": 2, "id": "two", "error": {"type": "LMAnswerError", "message": "no answer"}},
    {"line": 4, "outputs": {"answer": "\ud800", "score": 0.5, "tags": ["x"], "odd": 1}, "provenance": PROVENANCE},
    {
        "line": 5,
        "outputs": {"answer": None, "tags": [], "odd": {"a": 1}, "bare": {}},
        "provenance": {**PROVENANCE, "cost_usd": None},
    },
]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in RECORDS), encoding="utf-8")
    return path


def test_csv_has_a_column_for_each_output_and_what_produced_it(tmp_path: Path, records: Path) -> None:
    output = tmp_path / "out.csv"
    export_records(records, output)
    with output.open(encoding="utf-8", newline="") as file:
        first, failed, second, third = csv.DictReader(file)
    assert list(first) == [
        "line", "id", "answer", "score", "output_line", "tags", "odd", "bare", "error", "error_message", "cost_usd",
        "token", "program", "version", "model", "task_id", "provenance",
    ]  # fmt: skip
    assert (first["answer"], first["score"], first["output_line"]) == ('a, "b"\nc', "1", "x")
    assert (first["version"], json.loads(first["provenance"])) == ("3", PROVENANCE)
    assert (failed["id"], failed["error"], failed["error_message"], failed["answer"]) == (
        "two",
        "LMAnswerError",
        "no answer",
        "",
    )
    assert (second["answer"], second["tags"]) == ("\N{REPLACEMENT CHARACTER}", '["x"]')
    assert (third["answer"], third["odd"], third["cost_usd"]) == ("", '{"a": 1}', "")
    assert not list(tmp_path.glob("*.part"))


def test_parquet_has_the_types_that_all_rows_have(tmp_path: Path, records: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None and not os.environ.get("CI"):
        pytest.skip("pyarrow isn't installed; make installs it")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    output = tmp_path / "out.parquet"
    export_records(records, output)
    table = parquet.read_table(output)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["line"], kinds["score"], kinds["cost_usd"], kinds["version"]) == (
        "int64",
        "double",
        "double",
        "int64",
    )
    assert kinds["tags"].startswith("list<")
    assert kinds["odd"] == "string", "a number and an object have no type in common"
    assert table.column("odd").to_pylist() == [None, None, "1", '{"a": 1}']
    assert table.column("bare").to_pylist() == [None, None, None, "{}"]
    assert table.column("score").to_pylist() == [1.0, None, 0.5, None]


def test_failed_lines_are_an_input_again(tmp_path: Path, records: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"q": 1}\n{"id": "two", "inputs": {"q": 2}}\n\n{"q": 4}\n{"q": 5}\n', encoding="utf-8")
    export_failed(BulkSource(source), read_records(records), tmp_path / "failed.jsonl")
    [line] = BulkSource(tmp_path / "failed.jsonl").lines()
    assert (line.identity["id"], line.inputs) == ("two", {"q": 2})


def test_a_file_is_not_written_over_by_another_one(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.touch()
    with pytest.raises(BulkError, match="it is the input itself"):
        check_output(source, source, None)
    with pytest.raises(BulkError, match="it is the output itself"):
        check_output(source, tmp_path / "out.jsonl", tmp_path / "out.jsonl")


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path, records: Path) -> None:
    with pytest.raises(BulkError, match="it can't be written"):
        export_records(records, tmp_path / "nowhere" / "out.csv")
