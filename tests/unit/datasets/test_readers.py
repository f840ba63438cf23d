"""Files of examples: what each format gives, and the file and line that an error names."""

from __future__ import annotations

import importlib.util
import os
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.datasets.readers import encode_jsonl, read_dataset
from snakepit_bridge.exceptions import ConfigurationError, DatasetError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines_keep_their_types(tmp_path: Path) -> None:
    path = write(tmp_path, "golden.jsonl", '{"q": "1+1?", "a": 2}\n\n{"q": {"deep": [1.5, null, true]}, "a": "größer"}')
    dataset = read_dataset("golden", path, inputs=["q"])
    assert dataset.rows == ({"q": "1+1?", "a": 2}, {"q": {"deep": [1.5, None, True]}, "a": "größer"})


def test_a_first_line_of_json_marks_the_inputs(tmp_path: Path) -> None:
    path = write(tmp_path, "golden.ndjson", '{"$inputs": ["q", "c"]}\n{"q": "?", "c": "", "a": 1}\n')
    assert read_dataset("golden", path).inputs == ("q", "c")
    assert read_dataset("golden", path, inputs=["q"]).inputs == ("q",)
    assert read_dataset("golden", path, inputs=[]).inputs == ()


def test_a_file_may_mark_that_there_are_no_inputs(tmp_path: Path) -> None:
    dataset = read_dataset("jokes", write(tmp_path, "jokes.jsonl", '{"$inputs": []}\n{"joke": "Ha!"}\n'))
    assert (dataset.inputs, dataset.rows) == ((), ({"joke": "Ha!"},))
    assert b"".join(encode_jsonl(dataset)) == b'{"$inputs":[]}\n{"joke":"Ha!"}\n'


def test_csv_gives_text(tmp_path: Path) -> None:
    path = write(tmp_path, "golden.CSV", '\ufeffq,Best Answer\r\n"a, ""b""\n?",2\r\n,\r\n')
    dataset = read_dataset("golden", path, inputs=["q"])
    assert dataset.rows == ({"q": 'a, "b"\n?', "Best Answer": "2"}, {"q": "", "Best Answer": ""})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"q": 1}\n{"q": \n', "a.jsonl:2: it isn't JSON ("),
        ("a.jsonl", '{"q": NaN}', "a.jsonl:1: it isn't JSON (NaN is not JSON"),
        ("a.jsonl", '{"q": 1}\n\n[1]', "a.jsonl:3: it must be an object or a dspy.Example, not a list"),
        ("a.jsonl", b'{"q": "\xff"}', "a.jsonl:1: it isn't JSON ("),
        ("a.jsonl", '{"$inputs": "q"}\n{"q": 1}', "a.jsonl:1: $inputs is a list"),
        ("a.jsonl", '{"q": 1}\n{"a": 1}', "a.jsonl:2: it lacks the input field 'q'; it has 'a'"),
        ("a.jsonl", '{"q": 1e999}', "a.jsonl:1: field 'q' has a number that isn't finite"),
        ("a.jsonl", '{"q": ' + "[" * 100_000, "a.jsonl:1: it isn't JSON (it is nested too deeply)"),
        ("a.jsonl", "", "dataset 'golden': it has no examples"),
        ("a.csv", "", "a.csv:1: it is empty"),
        ("a.csv", "q,q\n1,2", "a.csv:1: two columns are named 'q'"),
        ("a.csv", "q,a\n1,2\n1,2,3", "a.csv:3: it has 3 fields, and the first line 2"),
        ("a.csv", 'q\n"a" b', "a.csv:2: it isn't CSV ("),
        ("a.csv", b"q\nfine\n\xff", "it isn't UTF-8 ("),
        ("a.txt", "q", "a.txt: its suffix tells no format; name a file that ends in .jsonl, .ndjson, .csv, .parquet"),
    ],
)
def test_what_can_not_be_read_is_named_by_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DatasetError) as caught:
        read_dataset("golden", path, inputs=["q"])
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.jsonl: it can't be opened \(No such file or directory\)"):
        read_dataset("golden", tmp_path / "none.jsonl", inputs=["q"])


def test_what_is_exported_is_read_as_the_same_dataset(tmp_path: Path) -> None:
    rows = [{"q": {"z": 1, "a": [1, None]}, "a": "größer"}, {"q": 2, "c": "optional"}]
    dataset = Dataset.build("golden", rows, inputs=["q", "c?"])
    path = write(tmp_path, "golden.jsonl", b"".join(encode_jsonl(dataset)))
    assert read_dataset("golden", path).digest == dataset.digest


def test_what_json_lacks_is_exported_as_plain_json(tmp_path: Path) -> None:
    row = {"q": dspy.Image("https://example.org/a.png"), "when": date(2026, 1, 2), "pair": (1, Decimal("0.1"))}
    path = write(tmp_path, "a.jsonl", b"".join(encode_jsonl(Dataset.build("a", [row], inputs=["q"]))))
    (read,) = read_dataset("a", path).rows
    assert read == {"q": {"url": "https://example.org/a.png"}, "when": "2026-01-02", "pair": [1, "0.1"]}


def test_parquet_gives_json_values(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None and not os.environ.get("CI"):
        pytest.skip("pyarrow isn't installed; make installs it")
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    rows = [
        {"q": "1+1?", "n": 2, "tags": ["x"], "at": datetime(2026, 1, 2, 3, tzinfo=UTC), "price": Decimal("1.50")},
        {"q": "2+2?", "n": None, "tags": [], "at": None, "price": None},
    ]
    path = tmp_path / "golden.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    first, second = read_dataset("golden", path, inputs=["q"]).rows
    assert first == {"q": "1+1?", "n": 2, "tags": ["x"], "at": "2026-01-02T03:00:00+00:00", "price": "1.50"}
    assert second == {"q": "2+2?", "n": None, "tags": [], "at": None, "price": None}

    parquet.write_table(arrow.table({"q": [1.0, float("nan")]}), path)
    with pytest.raises(DatasetError, match=r"golden\.parquet: row 2: field 'q' has a number that isn't finite"):
        read_dataset("golden", path, inputs=["q"])
    path.write_bytes(b"no parquet")
    with pytest.raises(DatasetError, match=r"golden\.parquet: it isn't a Parquet file"):
        read_dataset("golden", path, inputs=["q"])


def test_parquet_without_pyarrow_tells_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'dspex-fleet\[parquet\]'"):
        read_dataset("golden", write(tmp_path, "golden.parquet", b"PAR1"), inputs=["q"])
