"""``dspex-fleet dataset``: what each command prints, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from snakepit_bridge.cli import main
from snakepit_bridge.datasets.recorded import RecordedPrediction
from snakepit_bridge.redis.key_names import FleetKeys

Run = Callable[..., str]


@pytest.fixture
def run(redis_url: str, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command and return what it prints, with its exit code if it fails."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", redis_url, *(() if arguments[0] == "record" else ("dataset",)), *arguments])
        captured = capfdbinary.readouterr()
        return captured.out.decode() if not ended.value.code else f"{ended.value.code} {captured.err.decode()}"

    return run


@pytest.fixture
def golden(run: Run, tmp_path: Path) -> Path:
    """Two versions of a dataset, and the file of the second."""
    path = tmp_path / "golden.csv"
    path.write_text("question,answer\n1+1?,2\n2+2?,4\n")
    run("add", "golden", str(path), "--inputs", "question")
    path.write_text("question,answer\n1+1?,two\n3+3?,6\n4+4?,8\n")
    run("add", "golden", str(path), "--inputs", " question ,")
    return path


def squeeze(text: str) -> list[str]:
    """Return the lines with single spaces."""
    return [re.sub(r" +", " ", line).strip() for line in text.splitlines()]


def test_add_says_which_version_has_the_content(run: Run, golden: Path) -> None:
    added = run("add", "golden", str(golden), "--inputs", "question")
    assert re.match(r"golden:2  3 examples  inputs question  digest \w{12}  added \S+ \S+ from golden.csv\n$", added)
    found = json.loads(run("add", "copy", str(golden), "--inputs", "question,answer", "--json"))
    assert (found["name"], found["version"], found["inputs"]) == ("copy", 1, ["question", "answer"])


def test_list_shows_the_newest_versions_or_those_of_a_dataset(run: Run, golden: Path) -> None:
    assert any(line.startswith("golden:2 3 question") for line in squeeze(run("list")))
    versions = json.loads(run("list", "golden", "--json"))
    assert [(each["version"], each["examples"], each["source"]) for each in versions] == [
        (1, 2, golden.name),
        (2, 3, golden.name),
    ]
    assert run("list", "other").startswith("1 dspex-fleet: Dataset not found: other. Stored: golden.")


def test_show_prints_the_first_examples(run: Run, golden: Path) -> None:
    lines = squeeze(run("show", "golden", "--limit", "2"))
    assert "# question (input) answer" in lines
    assert "1 1+1? two" in lines
    assert lines[-1] == "1 more: dspex-fleet dataset export golden:2 FILE"
    shown = json.loads(run("show", "golden:1", "--json"))
    assert shown["rows"] == [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]


def test_diff_shows_what_was_added_removed_and_changed(run: Run, golden: Path) -> None:
    lines = squeeze(run("diff", "golden:1", "golden:2"))
    assert lines[0] == "golden:1 to golden:2: 2 added, 1 removed, 1 changed, 0 unchanged"
    assert '- {"question": "2+2?", "answer": "4"}' in lines
    assert '~ {"question": "1+1?"} {"answer": ["2", "two"]}' in lines
    assert len(json.loads(run("diff", "golden:1", "golden", "--json"))["added"]) == 2
    assert squeeze(run("diff", "golden", "golden:2")) == [
        "golden to golden:2: 0 added, 0 removed, 0 changed, 3 unchanged"
    ]


def test_what_is_exported_can_be_added_again(run: Run, golden: Path) -> None:
    exported = golden.with_suffix(".jsonl")
    assert run("export", "golden:1", str(exported)) == f"2 examples of golden:1 are in {exported}\n"
    assert run("add", "golden", str(exported)).startswith("golden:1  2 examples")
    assert run("export", "golden:1", "-") == exported.read_text()
    assert run("export", "golden", str(golden / "x")).startswith("1 dspex-fleet: The file")


def test_remove_names_what_it_removed(run: Run, golden: Path) -> None:
    assert run("remove", "golden:1") == "removed: golden:1\n"
    assert run("remove", "golden") == "removed: golden:2\n"
    assert run("list") == "datasets: none; add one with: dspex-fleet dataset add NAME FILE --inputs FIELD\n"
    assert run("remove", "golden").startswith("1 dspex-fleet: Dataset not found: golden")


def test_a_bad_file_is_one_line_with_its_place(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": 1}\nno json\n')
    printed = run("add", "golden", str(path), "--inputs", "question")
    assert re.match(
        r"1 dspex-fleet: \S+bad\.jsonl:2: it isn't JSON \(.*\); write one object on each line\.\n$", printed
    )
    path.write_text('{"question": 1}\n')
    assert "its inputs aren't marked; name the input fields" in run("add", "golden", str(path))
    assert "  inputs none  " in run("add", "golden", str(path), "--inputs", "")


def test_record_sets_shows_and_removes_what_is_recorded(run: Run, redis_url: str) -> None:
    assert run("record", "show") == "record: nothing is recorded; begin with: dspex-fleet record set PROGRAM\n"
    assert run("record", "set", "qa").startswith("1 dspex-fleet: Program not found: qa. Registered: none.")
    with Redis.from_url(redis_url) as client:
        client.hset("dspex:{p:qa}:versions", "latest", f"1 {'0' * 64}")
        record = RecordedPrediction("", "qa", 1, "s", "1.2", {"q": 1}, {"answer": 2}).encode()
        client.xadd(FleetKeys().program_records("qa"), {"task": "t1", "record": record})
        client.expire(FleetKeys().program_records("qa"), 60)
    options = (
        "--share",
        "0.5",
        "--drop",
        "inputs.email",
        "--replace",
        "inputs.name",
        "--expires",
        "36h",
        "--no-errors",
    )
    assert run("record", "set", "qa", *options, "--max", "100") == (
        "predictions of qa are recorded, from a few seconds on\n"
    )
    [shown] = json.loads(run("record", "show", "--json"))
    assert (shown["share"], shown["expires_s"], shown["max_records"], shown["errors"]) == (0.5, 129_600, 100, False)
    assert (shown["drop"], shown["replace"], shown["records"]) == (["inputs.email"], ["inputs.name"], 1)
    [row] = [line for line in squeeze(run("record", "show")) if line.startswith("qa 0.5 1 100 1.5 ")]
    assert row.endswith("all; without inputs.email; names of inputs.name no")
    assert run("record", "set", "qa", "--drop", "email").startswith("1 dspex-fleet: The recorder of 'qa' is refused:")
    assert run("record", "set", "qa", "--expires", "soon").startswith("2 ")

    assert run("from-predictions", "qa").startswith("qa-predictions:1  1 examples  inputs q  digest")
    assert json.loads(run("from-predictions", "qa", "--name", "all", "--since", "1h", "--json"))["name"] == "all"
    assert "none of the recorded predictions of 'qa'" in run("from-predictions", "qa", "--error", "any")
    assert "score condition 'helpful'" in run("from-predictions", "qa", "--score", "helpful")

    assert run("record", "remove", "qa") == "predictions of qa are not recorded any more\n"
    assert run("record", "remove", "qa").startswith("1 dspex-fleet: The recorder of 'qa' is refused: there is none")
    assert run("record", "remove", "qa", "--erase").endswith("and the records are removed\n")
    assert "none of the recorded predictions of 'qa'" in run("from-predictions", "qa")
