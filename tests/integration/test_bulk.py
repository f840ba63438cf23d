"""Bulk runs with a real worker: each line once, whatever ends the client, and nothing left in Redis."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Generator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import dspy
import pytest
from redis import Redis

from snakepit_bridge.cli import main
from snakepit_bridge.client.bulk.progress import BulkProgress
from snakepit_bridge.exceptions import BulkError, PredictionUnknownError
from snakepit_bridge.testing import Fault
from tests.harness.preloaded import PreloadedPopen
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]


class Printed(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Printed]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as play:
        play.fleet.register("asked", dspy.Predict("question -> answer"))
        play.fleet.register("counted", dspy.Predict("question, count: int -> answer"))
        yield play


@pytest.fixture
def run(play: Stage, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> Printed:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", play.url, "batch", *arguments])
        out, err = capsys.readouterr()
        return Printed(int(ended.value.code or 0), out, err)

    return command


def write_questions(folder: Path, count: int) -> tuple[Path, list[str]]:
    prefix = fresh("question")
    questions = [f"{prefix}-{number:05}" for number in range(count)]
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions), encoding="utf-8")
    return source, questions


def read_output(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def count_requests(play: Stage, questions: list[str]) -> Counter[str]:
    """Count the LM's requests for each question."""
    prefix = questions[0].rpartition("-")[0]
    return Counter(value for sent in play.requests_with(prefix) for value in sent.inputs.values() if prefix in value)


def left_in_redis(play: Stage) -> list[bytes]:
    """Return the keys of results and idempotency keys that would be kept for longer than some minutes."""
    with Redis.from_url(play.url) as client:
        found: Any = [*client.keys("celery-task-meta-*"), *client.keys("dspex:{i:bulk*")]
        return [key for key in found if client.ttl(key) > 300]


@pytest.mark.parametrize("together", ["1", "6"])
def test_each_line_has_its_answer_or_error_in_its_place(play: Stage, run: Run, tmp_path: Path, together: str) -> None:
    source, questions = write_questions(tmp_path, 20)
    lines = source.read_text(encoding="utf-8").splitlines()
    lines[3:5] = ["nonsense", json.dumps({"id": "no", "inputs": {"wrong": 1}})]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    output, failed = tmp_path / "out.jsonl", tmp_path / "failed.jsonl"
    command = ("asked", "--input", str(source), "--output", str(output), "--in-flight", "8", "--batch", together)

    done = run(*command, "--failed", str(failed))
    assert done.code == 1
    assert "20 lines, 18 answered, 2 failed" in done.out
    assert "2 InputError, the first at line " in done.out
    written = read_output(output)
    assert [record["line"] for record in written] == list(range(1, 21))
    assert written[0]["outputs"] == {"answer": f"answer of {questions[0]}"}
    assert written[3]["error"]["type"] == written[4]["error"]["type"] == "InputError"
    assert written[4]["id"] == "no"
    assert read_output(failed) == [{"id": 4, "inputs": {}}, {"id": "no", "inputs": {"wrong": 1}}]
    assert left_in_redis(play) == []
    with pytest.raises(PredictionUnknownError, match="it was forgotten"):
        play.fleet.handle(written[0]["provenance"]["task_id"]).get()

    before = output.read_bytes()
    again = run(*command)
    assert again.code == 1
    assert "20 of 20 lines are done already, 2 of them failed" in again.out
    assert output.read_bytes() == before


def test_failed_lines_are_tried_again_in_their_places(play: Stage, run: Run, tmp_path: Path) -> None:
    source, questions = write_questions(tmp_path, 12)
    output = tmp_path / "out.jsonl"
    command = ("asked", "--input", str(source), "--output", str(output), "--batch", "5")
    for index in (2, 3, 9):
        play.lm.faults.add(Fault("malformed", times=None, containing=questions[index]))
    try:
        done = run(*command)
    finally:
        play.lm.faults.clear()
    assert done.code == 1
    assert "12 lines, 9 answered, 3 failed" in done.out
    assert "retry the 3 failed lines with --retry-failed" in done.out

    requests_before = count_requests(play, questions)
    again = run(*command, "--retry-failed")
    assert again.code == 0, again.err
    assert "12 lines, 12 answered, 0 failed" in again.out
    assert [each["outputs"]["answer"] for each in read_output(output)] == [f"answer of {each}" for each in questions]
    asked_again = count_requests(play, questions) - requests_before
    assert asked_again == Counter(questions[index] for index in (2, 3, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.checkpoint"]


def test_a_killed_client_is_resumed_without_a_line_lost_or_paid_twice(play: Stage, run: Run, tmp_path: Path) -> None:
    source, questions = write_questions(tmp_path, 600)
    output = tmp_path / "out.jsonl"
    command = ["batch", "asked", "--input", str(source), "--output", str(output), "--in-flight", "60", "--batch", "20"]
    # 600 lines take so long that the last kill comes before the end.
    play.lm.faults.delay(0.4, 0.05)
    kills = 0
    try:
        for least in (1, 200, 400):
            client = PreloadedPopen(
                [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", play.url, *command], cwd=ROOT
            )
            reached = wait_until(
                lambda client=client, least=least: (
                    client.poll() is not None or (output.exists() and output.read_bytes().count(b"\n") >= least)
                ),
                f"{least} lines in the output",
                timeout_s=PATIENCE_S,
            )
            assert reached
            kills += client.poll() is None
            client.send_signal(signal.SIGKILL)
            client.wait()
        done = run(*command[1:])
    finally:
        play.lm.faults.delay(0.0)
    assert kills == 3
    assert done.code == 0, done.err
    assert [each["outputs"]["answer"] for each in read_output(output)] == [f"answer of {each}" for each in questions]
    assert set(count_requests(play, questions).values()) == {1}, "nothing was paid twice"


def test_a_limit_of_spending_stops_the_run_and_a_higher_one_resumes_it(play: Stage, tmp_path: Path) -> None:
    """The stage's LM costs a thousandth of a dollar per token."""
    source, questions = write_questions(tmp_path, 60)
    output = tmp_path / "out.jsonl"
    sample = play.fleet.map_file("asked", source, tmp_path / "sample.jsonl", sample=4)
    assert (sample.total, sample.done) == (4, 4)
    each_usd = sample.cost_usd / 4
    limit_usd = each_usd * 30

    report = play.fleet.map_file("asked", source, output, limit_usd=limit_usd, in_flight=10, batch=1)
    assert report.stopped == "limit"
    assert each_usd * 25 < report.cost_usd <= limit_usd
    rest = play.fleet.map_file("asked", source, output, limit_usd=each_usd * 100)
    assert (rest.done, rest.failed, rest.stopped) == (60, 0, "")
    sampled = {record["outputs"]["answer"] for record in read_output(tmp_path / "sample.jsonl")}
    assert len(sampled) == 4
    counts = count_requests(play, questions)
    assert sum(counts.values()) == 64, "each line once, and the sample of another output besides"


def test_predictions_without_a_price_are_refused_under_a_limit(
    play: Stage, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source, _ = write_questions(tmp_path, 3)
    play.fleet.register("unpriced", dspy.Predict("question -> answer"), lm="hasty")
    with pytest.raises(BulkError, match="give its LM profile a price"):
        play.fleet.map_file("unpriced", source, tmp_path / "out.jsonl", limit_usd=1)


def test_csv_comes_in_and_goes_out(play: Stage, run: Run, tmp_path: Path) -> None:
    question = fresh("question")
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        f'sku,question,count,note\nA-1,"{question}, ""one""",3,x\nA-2,{question} two,many,y\n', encoding="utf-8"
    )
    done = run("counted", "--input", str(source), "--output", str(output), "--id", "sku")
    assert done.code == 1, "many isn't a number"
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["id"], row["answer"], row["error"]) for row in rows] == [
        ("2", "A-1", f'answer of {question}, "one"', ""),
        ("3", "A-2", "", "InputError"),
    ]
    assert json.loads(rows[0]["provenance"])["program"] == rows[0]["program"] == "counted"
    assert Decimal(rows[0]["cost_usd"]) > 0
    [sent] = play.requests_with(question)
    assert sent.inputs["count"] == "3"
    assert (tmp_path / "out.csv.records.jsonl").exists(), "it is kept for --retry-failed"


def test_parquet_comes_in_and_goes_out(play: Stage, tmp_path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None and not os.environ.get("CI"):
        pytest.skip("pyarrow isn't installed; make installs it")
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    question = fresh("question")
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    rows = [{"key": number, "question": f"{question} {number}", "count": number} for number in range(5)]
    parquet.write_table(arrow.Table.from_pylist(rows), source)
    seen: list[BulkProgress] = []
    report = play.fleet.map_file("counted", source, output, id_column="key", on_progress=seen.append)
    assert (report.done, report.failed) == (5, 0)
    found = parquet.read_table(output).to_pylist()
    assert [row["answer"] for row in found] == [f"answer of {question} {number}" for number in range(5)]
    assert [row["id"] for row in found] == list(range(5))
    assert {row["version"] for row in found} == {1}
    assert sum(row["cost_usd"] for row in found) == pytest.approx(float(report.cost_usd))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet", "out.parquet.checkpoint"]
    assert seen[-1].state.done == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "in.csv", "--output", "out.jsonl"), r"it lacks the column 'count'; it has 'question'"),
        (("--input", "in.jsonl", "--output", "in.jsonl"), "it is the input itself"),
        (("--input", "in.jsonl", "--output", "there.jsonl"), "it exists, and no run has written it"),
        (("--input", "in.jsonl", "--output", "out.txt"), "its suffix tells no format"),
        (("--input", "in.jsonl", "--output", "no/out.jsonl"), "there is no folder no; create it"),
        (("--input", "none.jsonl", "--output", "out.jsonl"), "none.jsonl: it can't be opened"),
        (("--input", "in.jsonl", "--output", "out.jsonl", "--failed", "f.csv"), "name a file that ends in .jsonl"),
        (("--input", "in.jsonl", "--output", "out.jsonl", "--exactly", "x"), "token"),
    ],
)
def test_what_can_not_be_run_is_refused_before_anything_is_sent(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"question": "?"}\n', encoding="utf-8")
    Path("in.csv").write_text("question\n?\n", encoding="utf-8")
    Path("there.jsonl").write_text("mine\n", encoding="utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    refused = run("counted", *arguments)
    assert refused.code == 1
    assert message in refused.err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_another_input_or_program_does_not_resume_a_run(play: Stage, run: Run, tmp_path: Path) -> None:
    source, _ = write_questions(tmp_path, 4)
    output = tmp_path / "out.jsonl"
    assert play.fleet.map_file("asked", source, output).done == 4
    written = output.read_bytes()
    refused = run("counted", "--input", str(source), "--output", str(output))
    assert "its program is asked, and not counted" in refused.err
    refused = run("asked", "--input", str(source), "--output", str(output), "-s", "other")
    assert "its session is default, and not other" in refused.err
    write_questions(tmp_path, 5)
    refused = run("asked", "--input", str(source), "--output", str(output))
    assert "it is of another input" in refused.err
    unknown = run("nobody", "--input", str(source), "--output", str(tmp_path / "new.jsonl"))
    assert "nobody" in unknown.err
    assert output.read_bytes() == written
