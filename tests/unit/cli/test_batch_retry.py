"""A batch's output that is tried again: every record stays or is replaced in its place, whatever ends the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.cli.batch_files import read_lines
from snakepit_bridge.cli.batch_retry import open_retry_output
from snakepit_bridge.exceptions import BridgeError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"q": n}) + "\n" for n in range(6)), encoding="utf-8")
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Five of six lines, of which the second and the fourth failed."""
    path = tmp_path / "out.jsonl"
    records: list[dict[str, Any]] = [{"line": n, "outputs": {"a": n}} for n in range(1, 6)]
    records[1] = {"line": 2, "error": {"type": "E"}}
    records[3] = {"line": 4, "error": {"type": "E"}}
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def summaries(output: Path) -> list[str]:
    """For each record its line, and whether it is an old answer, a new one or an error."""
    records = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [f"{record['line']} {'error' if 'error' in record else record['outputs']['a']}" for record in records]


def retry(output: Path, source: Path, upto: int = 6) -> None:
    with open_retry_output(output) as written:
        for number, line in enumerate(written.merge(read_lines(source)), start=1):
            if number > upto:
                raise KeyboardInterrupt
            written.write(line, {"outputs": {"a": "new"}})


def test_failed_lines_and_those_behind_the_end_are_tried(source: Path, output: Path) -> None:
    """KINDS 47."""
    retry(output, source)
    assert summaries(output) == ["1 1", "2 new", "3 3", "4 new", "5 5", "6 new"]


@pytest.mark.parametrize("upto", range(6))
def test_an_interrupted_run_keeps_what_it_did_and_what_it_did_not_come_to(
    source: Path, output: Path, upto: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        retry(output, source, upto)
    expected = ["1 1", "2 new" if upto >= 2 else "2 error", "3 3", "4 new" if upto >= 4 else "4 error", "5 5"]
    assert summaries(output) == expected
    retry(output, source)
    assert summaries(output) == ["1 1", "2 new", "3 3", "4 new", "5 5", "6 new"]


def test_what_a_killed_run_had_written_is_taken_up(source: Path, output: Path) -> None:
    beside = output.with_name("out.jsonl.retrying")
    beside.write_text(
        '{"line": 1, "outputs": {"a": 1}}\n{"line": 2, "outputs": {"a": "killed"}}\n{"line": 3, "ou', encoding="utf-8"
    )
    retry(output, source, upto=6)
    assert summaries(output) == ["1 1", "2 killed", "3 3", "4 new", "5 5", "6 new"]
    assert not beside.exists()


@pytest.mark.parametrize("broken", ["nonsense", '{"line": 9}', "[1]"])
def test_an_output_of_another_input_is_refused_and_left_as_it_was(source: Path, output: Path, broken: str) -> None:
    lines = output.read_text(encoding="utf-8").splitlines(keepends=True)
    output.write_text("".join([*lines[:2], broken + "\n", *lines[3:]]), encoding="utf-8")
    before = output.read_bytes()
    with pytest.raises(BridgeError, match=r"can't be resumed: its line 3 .* Name another file, or remove it"):
        retry(output, source)
    after = output.read_bytes()
    assert after.splitlines()[2:] == before.splitlines()[2:]
