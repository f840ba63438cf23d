"""Which recorded predictions a selection covers, and the rows that they become."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.datasets.recorded import RecordedPrediction
from snakepit_bridge.datasets.selection import (
    ScoreCondition,
    SelectedPrediction,
    Selection,
    build_from_predictions,
    summarize_scores,
)
from snakepit_bridge.exceptions import DatasetError
from snakepit_bridge.releases.scores import Score


def recorded(**changes: Any) -> RecordedPrediction:
    usual: dict[str, Any] = {"task_id": "t1", "program": "qa", "version": 2, "session": "s", "token": "1.2"}
    parts: dict[str, Any] = {**usual, "inputs": {"q": "?"}, "outputs": {"answer": "!"}, **changes}
    return RecordedPrediction(**parts)


@pytest.mark.parametrize(
    ("text", "scores", "holds"),
    [
        ("helpful<0.5", {"helpful": 0.4}, True),
        ("helpful<0.5", {"helpful": 0.5}, False),
        ("helpful <= 0.5", {"helpful": 0.5}, True),
        ("helpful>0.5", {}, False),
        ("helpful!=0.5", {}, False),
        ("helpful>=.5", {"helpful": 1.0}, True),
        ("right=true", {"right": 1.0}, True),
        ("right=false", {"right": 1.0}, False),
        ("on-topic==1", {"on-topic": 1.0}, True),
        ("tone=off topic", {"tone": "off topic"}, True),
        ("tone!=curt", {"tone": "curt"}, False),
        ("tone!=curt", {"tone": 0.5}, False),
        ("helpful<0.5", {"helpful": "curt"}, False),
    ],
)
def test_a_condition_holds_for_scores_of_its_kind(text: str, scores: Any, holds: bool) -> None:
    assert ScoreCondition.parse(text).holds(scores) is holds


@pytest.mark.parametrize("text", ["helpful", "<0.5", "helpful<", "7up<1", "help ful<1", "tone<curt", "helpful<nan"])
def test_what_is_no_condition_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(DatasetError, match="score condition '"):
        ScoreCondition.parse(text)


def test_several_scorers_count_as_their_mean_and_the_last_label() -> None:
    scores = [Score("helpful", 0.5, scorer="a"), Score("helpful", True, scorer="b"), Score("ok", False)]
    scores += [Score("tone", "kind", scorer="a", at=2.0), Score("tone", "curt", scorer="b", at=1.0)]
    assert summarize_scores(scores) == {"helpful": 0.75, "ok": 0.0, "tone": "kind"}


@pytest.mark.parametrize(
    ("selection", "error", "covers"),
    [
        (Selection(), "", True),
        (Selection(), "LMAnswerError", False),
        (Selection(error="any"), "LMAnswerError", True),
        (Selection(error="any"), "", False),
        (Selection(error="LMAnswerError"), "LMAnswerError", True),
        (Selection(error="LMAnswerError"), "InputError", False),
        (Selection(session="s", token="1.2", version=2), "", True),
        (Selection(session="other"), "", False),
        (Selection(token="1.3"), "", False),
        (Selection(version=1), "", False),
    ],
)
def test_a_selection_covers_predictions_by_what_they_ran_under(selection: Selection, error: str, covers: bool) -> None:
    assert selection.covers(recorded(error=error)) is covers


def test_a_row_has_inputs_outputs_scores_and_the_error() -> None:
    found = recorded(outputs={"q": "!", "answer": 1}, error="LMAnswerError")
    assert SelectedPrediction(found, {"helpful": 0.5}).to_row() == {
        "q": "?",
        "output_q": "!",
        "answer": 1,
        "error": "LMAnswerError",
        "score_helpful": 0.5,
    }


def test_inputs_are_those_of_the_predictions_and_may_be_missing_from_some() -> None:
    selected = [SelectedPrediction(recorded(inputs=inputs), {}) for inputs in ({"q": "?"}, {"q": "!", "c": 1})]
    dataset = build_from_predictions("low", "qa", selected)
    assert (dataset.inputs, dataset.optional_inputs, len(dataset)) == (("q", "c"), ["c"], 2)
    with pytest.raises(DatasetError, match="none of the recorded predictions of 'qa' is selected"):
        build_from_predictions("low", "qa", [])
    with pytest.raises(DatasetError, match="prediction t1: DSPy hides fields"):
        build_from_predictions("low", "qa", [SelectedPrediction(recorded(outputs={"dspy_x": 1}), {})])
    with pytest.raises(DatasetError, match="its limit is 1 to 100000; got 0"):
        Selection(limit=0).check()


def test_a_selection_is_described_in_a_line() -> None:
    conditions = (ScoreCondition.parse("helpful<0.5"),)
    selection = Selection(conditions, "any", "s", "1.2", 3, since=86_400.0)
    assert selection.describe("qa") == (
        "predictions of qa: helpful<0.5, error any, session s, token 1.2, version 3, since 1970-01-02 00:00"
    )
    assert Selection().describe("qa") == "predictions of qa"
