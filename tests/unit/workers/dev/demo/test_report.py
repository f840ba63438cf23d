"""The report: what it prints is what happened, short enough for a terminal, and the file of answers holds all of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from snakepit_bridge.exceptions import LMUnavailableError
from tests.unit.workers.dev.demo.sample import answer, failed, lost, played, revisions, token
from workers.dev.demo.job import Revision
from workers.dev.demo.report import (
    accuracy_line,
    failure_lines,
    format_revision,
    last_line,
    progress_bar,
    provenance_table,
    revisions_table,
    write_answers,
)
from workers.dev.demo.verdict import judge


def printed(table: Table, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_the_last_line_counts() -> None:
    demo = played()
    found = judge(demo.answers, demo.revisions, demo.log)
    assert last_line(found) == "demo: 3 predictions, 3 revisions, 0 lost, 0 torn, 0 stale"


def test_the_last_line_names_every_defect() -> None:
    demo = played().with_answer(0, lost("classify"))
    found = replace(judge(demo.answers, demo.revisions, demo.log), torn=4, stale=5)
    assert last_line(found) == "demo: 2 predictions, 3 revisions, 1 lost, 4 torn, 5 stale"


def test_the_last_line_does_not_deny_what_could_not_be_seen() -> None:
    demo = played()
    assert last_line(judge(demo.answers, demo.revisions, None)).endswith("0 lost, unseen torn, 0 stale")


def test_a_revision_is_announced_with_what_it_changes() -> None:
    changed = {"llm_temperature": 0.3, "house_style": "x" * 100}
    text = format_revision(Revision(token(5), changed, changed), 4)
    assert text == f"revision 4 published: llm_temperature = 0.3, house_style = {'x' * 43}…"


def test_the_table_has_a_row_per_revision() -> None:
    demo = played()
    text = printed(revisions_table(judge(demo.answers, demo.revisions, demo.log), accuracy=False))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line[:1] == "│"]
    assert rows == [
        ["1", "1", "Predict", "0", "200", "200"],
        ["2", "1", "Predict", "0.7", "200", "200"],
        ["3", "1", "ChainOfThought", "0.7", "200", "200"],
    ]
    assert "right" not in text


def test_the_table_shows_how_many_were_right_where_that_says_something() -> None:
    demo = played()
    text = printed(revisions_table(judge(demo.answers, demo.revisions, demo.log), accuracy=True))
    assert "right" in text
    assert text.count("100%") == 3


def test_a_revision_without_an_answer_shows_no_temperature() -> None:
    demo = played()
    table = revisions_table(judge(demo.answers[1:], demo.revisions, demo.log[1:]), accuracy=False)
    text = printed(table)
    assert text.count("│ -    │") + text.count("│    - │") == 1


def test_failed_questions_are_told_apart_from_lost_ones() -> None:
    demo = played().with_answer(0, failed("classify")).with_answer(1, lost("extract"))
    found = judge(demo.answers, demo.revisions, demo.log)
    assert last_line(found) == "demo: 1 predictions, 3 revisions, 1 failed, 1 lost, 0 torn, 0 stale"


def test_each_kind_of_error_is_counted_with_an_example() -> None:
    error = LMUnavailableError("openai/demo", "transport_error", "it is down")
    answers = [
        failed("math"),
        failed("classify", error),
        failed("extract"),
        lost("math"),
        answer("math", revisions()[0]),
    ]
    lines = failure_lines(answers)
    assert [line.partition(":")[0] for line in lines] == [
        "2 failed, LMAnswerError, such as m",
        "1 failed, LMUnavailableError, such as c",
        "1 lost, PredictionTimeoutError, such as m",
    ]
    assert "it wrote a poem" in lines[0]


def test_the_accuracy_is_told_by_program() -> None:
    wrong = answer("classify", revisions()[0])
    assert wrong.prediction is not None
    wrong.prediction.label = "negative"
    answers = [answer("math", revisions()[0]), answer("classify", revisions()[0]), wrong, failed("extract")]
    assert accuracy_line(answers) == "right: 2 of 3 answers (classify 1 of 2, math 1 of 1)"
    assert accuracy_line([failed("math")]) == "right: 0 of 0 answers"


def test_the_provenance_tells_everything_about_one_answer() -> None:
    text = printed(provenance_table(answer("classify", revisions()[1])))
    for row in (
        "Provenance of c",
        "demo @ 100.2 (at_least=100.2)",
        "llm_temperature = 0.7",
        "house_style = Answer from the text alone.",
        "classify:1 (dddddddddddd) as Predict",
        "openai/demo (profile demo); openai/demo: 12 tokens",
        "queued 1 ms, snapshot 0.0 ms, bind 0.1 ms, run 151 ms",
        "demo1@host, process 7, attempt 1",
    ):
        assert row in text, row


def test_the_file_holds_every_question_with_its_answer(tmp_path: Path) -> None:
    demo = played().with_answer(1, lost("extract"))
    path = tmp_path / "new" / "folder" / "answers.jsonl"
    write_answers(path, demo.answers)
    first, second, third = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert (first["id"], first["program"], first["inputs"]) == ("c", "classify", {"text": "I love it."})
    assert (first["outputs"], first["expected"]) == ({"label": "positive"}, {"label": "positive"})
    assert first["provenance"]["token"] == "100.1"
    assert "error" not in first
    assert second["error"].startswith("PredictionTimeoutError: Prediction task-extract")
    assert second.keys().isdisjoint({"outputs", "provenance"})
    assert third["provenance"]["module"] == "ChainOfThought"


def test_answers_are_written_anew_and_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("old\n" * 10)
    only = answer("classify", revisions()[0])
    assert only.prediction is not None
    only.prediction.label = "größer\nals"
    write_answers(path, [only])
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert "größer\\nals" in line


def test_without_a_terminal_there_is_no_progress_bar() -> None:
    assert progress_bar(Console(file=io.StringIO())).disable
    assert not progress_bar(Console(file=io.StringIO(), force_terminal=True)).disable
