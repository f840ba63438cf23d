"""What the lines of a file are: inputs by column, ids, and a sample that is the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snakepit_bridge.client.bulk.source import BulkLine, BulkSource, InputColumns, draw_sample
from snakepit_bridge.exceptions import BulkError, DatasetError
from snakepit_bridge.programs.spec import ProgramSpec

COLUMNS = InputColumns(("question", "count"), frozenset({"count"}), ("question",))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_json_lines_are_inputs_or_inputs_with_an_id(tmp_path: Path) -> None:
    path = write(tmp_path, "in.jsonl", '{"q": "a"}\n\n{"id": 7, "inputs": {"q": "b"}}\nnonsense\n[1]\n')
    source = BulkSource(path, COLUMNS)
    plain, named, broken, listed = source.lines()
    assert source.count() == 4
    assert (plain.number, plain.identity, plain.inputs) == (1, {"line": 1}, {"q": "a"})
    assert (named.number, named.inputs, named.identity) == (3, {"q": "b"}, {"line": 3, "id": 7})
    assert broken.inputs is None
    assert "isn't JSON" in broken.problem
    assert "must be an object of inputs, not list" in listed.problem
    assert [line.number for line in source.lines(3)] == [4, 5]


def test_an_input_that_is_called_inputs_is_an_input_beside_others(tmp_path: Path) -> None:
    """What stands beside it was lost without a word."""
    given = {"question": "why?", "inputs": {"a": 1}}
    path = write(tmp_path, "in.jsonl", json.dumps(given) + '\n{"inputs": {"inputs": {"a": 1}}}\n')
    first, second = BulkSource(path).lines()
    assert first.inputs == given
    assert second.inputs == {"inputs": {"a": 1}}


def test_columns_that_are_inputs_are_taken_and_numbers_in_csv_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "in.csv", 'sku,question,count\n1,two,2\n3,"a\nb",many\n5,6\n')
    source = BulkSource(path, COLUMNS, "sku")
    source.check()
    first, second, short = source.lines()
    assert (first.identity, first.inputs) == ({"line": 2, "id": "1"}, {"question": "two", "count": 2})
    assert (second.identity["line"], second.inputs) == (4, {"question": "a\nb", "count": "many"})
    assert short.problem.startswith("it has 2 fields, and the first line 3")
    assert source.count() == 3


def test_a_program_whose_inputs_are_not_known_takes_all_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "in.csv", "sku,question\n1,two\n")
    [line] = BulkSource(path, InputColumns(), "sku").lines()
    assert line.inputs == {"question": "two"}


@pytest.mark.parametrize(
    ("header", "id_column", "message"),
    [("count", None, "lacks the column 'question'; it has 'count'"), ("question", "sku", "lacks the column 'sku'")],
)
def test_a_column_that_is_missing_is_named(tmp_path: Path, header: str, id_column: str | None, message: str) -> None:
    path = write(tmp_path, "in.csv", f"{header}\n1\n")
    with pytest.raises(BulkError, match=message):
        BulkSource(path, COLUMNS, id_column).check()


def test_json_lines_without_their_id_fail_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "in.jsonl", '{"q": "a", "key": 1}\n{"q": "b"}\n')
    first, second = BulkSource(path, COLUMNS, "key").lines()
    assert (first.identity, first.inputs) == ({"line": 1, "id": 1}, {"q": "a"})
    assert second.problem == "it lacks 'key', its id"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.jsonl: it can't be opened"):
        BulkSource(tmp_path / "none.jsonl").digest()


def test_the_columns_of_a_program_are_those_of_its_signature() -> None:
    spec = ProgramSpec.parse({"module": "Predict", "signature": "question, count: int -> answer"}, program="p")
    assert InputColumns.of(spec) == InputColumns(("question", "count"), frozenset({"count"}), ("question", "count"))
    own = ProgramSpec.parse({"module": "shop.programs:Classify"}, program="p")
    assert InputColumns.of(own) == InputColumns()


def test_a_sample_is_the_same_each_time_and_in_order() -> None:
    lines = [BulkLine(number, {"line": number}, {}) for number in range(1, 1_001)]
    numbers = [line.number for line in draw_sample(iter(lines), 1_000, 20)]
    assert len(numbers) == 20
    assert numbers == sorted(numbers)
    assert numbers == [line.number for line in draw_sample(iter(lines), 1_000, 20)]
    assert (
        len(list(draw_sample(iter(lines), 1_000, None))) == len(list(draw_sample(iter(lines), 1_000, 5_000))) == 1_000
    )
