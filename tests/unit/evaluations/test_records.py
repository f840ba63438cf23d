"""Records of evaluations: their figures, their ids, and how they are stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.evaluations.comparison import compare_results
from snakepit_bridge.evaluations.records import (
    EvaluationKey,
    EvaluationRecord,
    EvaluationSubject,
    ExampleResult,
    decode_results,
    drop_content,
    encode_results,
)
from snakepit_bridge.exceptions import EvaluationError

KEY = EvaluationKey("program", "values", "dataset", "metric")
SUBJECT = EvaluationSubject("qa", 3, "default", "1.2", "golden", 1, "exact", "mypkg:exact", "workers")
USED = LMUsage(calls=2, input_tokens=10, output_tokens=5, cost_pico=3)


def record(results: list[ExampleResult], key: EvaluationKey = KEY) -> EvaluationRecord:
    return EvaluationRecord.build(key, SUBJECT, results, started_at=1.0, ended_at=2.5, author="me")


def scored(*scores: float | bool | None, run_ms: float = 10.0) -> list[ExampleResult]:
    return [
        ExampleResult(f"e{number}", score, "" if score is not None else "LMRefusedError", run_ms=run_ms * (number + 1))
        for number, score in enumerate(scores)
    ]


def test_figures_are_those_of_the_examples() -> None:
    found = record([replace(result, usage=USED, metric_usage=USED) for result in scored(True, 0.5, None, False)])
    assert (found.count, found.errors, found.mean, found.score) == (4, 1, 0.375, 37.5)
    assert found.usage == LMUsage(calls=8, input_tokens=40, output_tokens=20, cost_pico=12) == found.metric_usage
    assert (found.p50_ms, found.p95_ms) == (20.0, 40.0)


def test_the_score_of_failures_counts_in_the_mean() -> None:
    generous = replace(KEY, failure_score=1.0)
    assert record(scored(False, None), generous).mean == 0.5


def test_a_record_and_its_results_are_read_back() -> None:
    results = [
        replace(each, usage=USED, inputs={"q": "?"}, labels={"a": "é"}, outputs={"a": [1]}, problem="p", task_id="t")
        for each in scored(True, 0.5, None, 3)
    ]
    found = record(results)
    assert EvaluationRecord.decode(found.encode()) == found
    assert EvaluationRecord.decode({**found.encode(), "newer": 1}) == found
    assert decode_results(encode_results(results)) == results
    assert found.as_dict()["id"] == found.id


def test_results_can_be_kept_without_their_content() -> None:
    [result] = drop_content([ExampleResult("e", 1, inputs={"q": "?"}, outputs={"a": "!"}, feedback="since")])
    assert result == ExampleResult("e", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"program_digest": "x"}, {"values_digest": "x"}, {"dataset_digest": "x"}, {"metric_digest": "x"},
        {"failure_score": 0.5}, {"repeat": 1},
    ],
)  # fmt: skip
def test_whatever_changes_the_scores_changes_the_id(change: dict[str, Any]) -> None:
    assert replace(KEY, **change).id != KEY.id == replace(KEY).id


def test_a_comparison_is_by_example_wherever_it_stands() -> None:
    before, after = scored(1, 0, 1, None), list(reversed(scored(1, 1, 0, 1)))
    found = compare_results(record(before), before, record(after), after)
    assert [(pair.candidate.digest, pair.difference) for pair in found.flipped] == [("e2", -1), ("e3", 1), ("e1", 1)]
    assert (found.difference, found.unpaired, found.verdict) == (0.25, 0, "no clear difference")
    assert found.as_dict()["flipped"][0] == {"example": "e2", "baseline": 1, "candidate": 0}


def test_examples_of_one_side_do_not_count_and_are_said_to_be_there() -> None:
    before, after = scored(0, 0, 0), scored(*[1] * 60)
    found = compare_results(record(before), before, record(after), after)
    assert (len(found.pairs), found.unpaired, found.difference, found.verdict) == (3, 57, 1.0, "better")


def test_an_example_that_a_dataset_has_twice_is_paired_twice() -> None:
    before = [ExampleResult("same", 0), ExampleResult("same", 1)]
    after = [ExampleResult("same", 1), ExampleResult("same", 1)]
    assert [pair.difference for pair in compare_results(record(before), before, record(after), after).pairs] == [1, 0]


def test_what_does_not_compare_is_refused() -> None:
    results, others = scored(1), [ExampleResult("other", 1)]
    with pytest.raises(EvaluationError, match="no example in common"):
        compare_results(record(results), results, record(others), others)
    with pytest.raises(EvaluationError, match="scores of different metrics"):
        compare_results(record(results), results, record(results, replace(KEY, metric_digest="x")), results)
