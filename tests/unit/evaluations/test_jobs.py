"""Jobs and the records of optimizations: their JSON forms, and what they tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snakepit_bridge.evaluations.jobs import EvaluationArguments, Job, JobEnd, OptimizationArguments, PinnedArm
from snakepit_bridge.evaluations.optimizations import OptimizationRecord, TrialRecord
from snakepit_bridge.variables.codec import encode_json, parse

TRIALS = (
    TrialRecord(1, "a", 0.5, 10),
    TrialRecord(2, "b", 0.75, 10, 10, "0.01", 1.5, 2, {"predict": "Add."}),
    TrialRecord(3, "c", 1.0, 5, 20),
)
RECORD = OptimizationRecord("run", "qa:1", "a", "COPRO", "exact", "train:1", trials=TRIALS, best="b")
JOB = Job("id", "evaluation", "qa", "default", {"dataset": "golden:1"}, "ann", 100.0)


def through_json(value: Any) -> Any:
    return parse(encode_json(value))


def test_what_is_stored_comes_back_equal_also_with_fields_of_a_newer_version() -> None:
    arguments = EvaluationArguments(
        "golden:1", {"reference": "m:f"}, (PinnedArm("latest", "qa:1", "s"),), 9, 0.0, 0, 60, True
    )
    optimization = OptimizationArguments("qa:1", "train:1", {}, "COPRO", {"breadth": 2}, max_usd=1.5)
    for value in (RECORD, arguments, optimization):
        assert type(value).decode({**through_json(value.encode()), "newer": 1}) == value
    end = JobEnd("failed", 9.0, error="MetricError", problem="no")
    stored = {**through_json(JOB.encode()), "newer": 1}
    ended = Job.decode(stored, started_at=1.0, progress={"ended": 2}, end={"state": "failed", "at": 9.0, "newer": 1})
    assert ended == replace(JOB, started_at=1.0, progress={"ended": 2}, end=replace(end, error="", problem=""))


def test_a_job_tells_where_it_stands() -> None:
    running = replace(JOB, started_at=1.0)
    assert (JOB.state, running.state, replace(running, end=JobEnd("cancelled", 2.0)).state) == (
        "queued", "running", "cancelled",
    )  # fmt: skip
    assert JOB.as_dict()["state"] == "queued"


def test_the_scores_of_an_optimization_are_those_of_its_trials() -> None:
    assert (RECORD.score, RECORD.parent_score) == (0.75, 0.5)
    assert replace(RECORD, best="unknown").score is None
    assert [trial.number for trial in RECORD.comparable] == [1, 2]
    assert (RECORD.as_dict()["score"], replace(RECORD, trials=()).comparable) == (0.75, [])
