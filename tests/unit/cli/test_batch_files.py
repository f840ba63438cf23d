"""A batch's files: every line has its place, and an interrupted output can be continued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snakepit_bridge.cli.batch_files import BatchLine, count_lines, open_output, read_lines
from snakepit_bridge.exceptions import BridgeError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"q": "a"}\n\n{"id": 7, "inputs": {"q": "b"}}\nnonsense\n[1]\n', encoding="utf-8")
    return path


def test_blank_lines_count_as_places_and_not_as_work(source: Path) -> None:
    assert count_lines(source) == 4
    assert [line.number for line in read_lines(source)] == [1, 3, 4, 5]


def test_a_line_is_inputs_or_inputs_with_an_id(source: Path) -> None:
    plain, named, broken, listed = read_lines(source)
    assert plain.inputs == {"q": "a"}
    assert (named.inputs, named.identity) == ({"q": "b"}, {"line": 3, "id": 7})
    assert broken.inputs is None
    assert "isn't JSON" in broken.problem
    assert "must be an object" in listed.problem


def answer(path: Path, source: Path, count: int) -> None:
    with open_output(path, source) as output:
        lines = read_lines(source)
        output.skip_done(lines)
        for line, _ in zip(lines, range(count), strict=False):
            output.write(line, {"outputs": {"a": line.number}})


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["line"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_second_run_goes_on_behind_the_last_line(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    answer(path, source, 2)
    assert numbers(path) == [1, 3]
    answer(path, source, 9)
    assert numbers(path) == [1, 3, 4, 5]


def test_a_record_that_a_kill_cut_off_is_written_again(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    answer(path, source, 2)
    path.write_bytes(path.read_bytes()[:-9])
    answer(path, source, 9)
    assert numbers(path) == [1, 3, 4, 5]


@pytest.mark.parametrize("foreign", ['{"line": 2}\n', '{"line": 1, "id": 9}\n{"line": 3, "id": 8}\n', "text\n", "[]\n"])
def test_an_output_of_something_else_is_refused_and_kept(source: Path, tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(foreign, encoding="utf-8")
    with pytest.raises(BridgeError, match="can't be resumed"):
        answer(path, source, 9)
    assert path.read_text(encoding="utf-8") == foreign


def test_the_input_is_never_written_over(source: Path) -> None:
    with pytest.raises(BridgeError, match="the input itself"), open_output(source, source):
        pass


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="none.jsonl can't be opened"):
        count_lines(tmp_path / "none.jsonl")
    with pytest.raises(BridgeError, match="can't be written"), open_output(tmp_path / "no" / "way", tmp_path):
        pass


def test_half_a_surrogate_pair_survives(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_output(path, source) as output:
        output.write(BatchLine(1, {"line": 1}, {}), {"outputs": {"a": "\ud800"}})
    assert json.loads(path.read_text(encoding="utf-8"))["outputs"] == {"a": "\ud800"}


def test_an_input_that_is_called_inputs_is_an_input_beside_others() -> None:
    """KINDS 4: what stands beside it was lost without a word."""
    given = {"question": "why?", "inputs": {"a": 1}}
    assert BatchLine.parse(1, json.dumps(given).encode()).inputs == given
    assert BatchLine.parse(1, b'{"inputs": {"inputs": {"a": 1}}}').inputs == {"inputs": {"a": 1}}
