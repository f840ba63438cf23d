"""``dspex-fleet optimize``: what it prints of a run, and what it makes of its options."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.cli.optimization_view import describe_progress, show_optimization
from snakepit_bridge.cli.optimize import _import_vectorizer, _parse_option
from snakepit_bridge.evaluations.optimizations import OptimizationRecord, TrialRecord


def record(**changed: Any) -> OptimizationRecord:
    trials = (
        TrialRecord(1, "a" * 64, 0.5, 2),
        TrialRecord(2, "b" * 64, 1.0, 2, predictions=2, demos=3),
        TrialRecord(3, "c" * 64, 1.0, 1, predictions=4),
    )
    parts: dict[str, Any] = {
        "run_id": "friday", "program": "qa:1", "digest": "a" * 64, "optimizer": "COPRO", "metric": "exact",
        "trainset": "train:1", "trials": trials, "predictions": 5, "usd": "0.5", "elapsed_s": 3.21, "best": "b" * 64,
        "version": 2, "label": "candidate",
    }  # fmt: skip
    return OptimizationRecord(**{**parts, **changed})


def test_the_best_trials_come_first_and_those_of_few_examples_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show_optimization(record())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "%" in line] == ["2", "1"]
    assert "qa:2 is what COPRO found, beginning with qa:1; candidate points there" in lines
    assert "5 predictions, 0.5 USD, 3 s, run friday" in lines


def test_a_run_that_finds_nothing_better_or_ends_early_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_optimization(record(version=1, best="a" * 64, stopped="5 predictions were made"))
    printed = capsys.readouterr().out
    assert "nothing better than qa:1 was found" in printed
    assert "it ended early: 5 predictions were made" in printed


def test_a_run_that_goes_on_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_optimization(record(version=None))
    assert "COPRO goes on with qa:1" in capsys.readouterr().out
    assert describe_progress(record()) == "3 trials, best 100.0%, 5 predictions, 0.5 USD"
    assert describe_progress(record(trials=())) == "0 trials, 5 predictions, 0.5 USD"


def test_a_vectorizer_is_imported_as_the_metric_is_and_a_models_name_stays() -> None:
    path = f"{__name__}:{record.__name__}"
    assert _import_vectorizer({"k": 3, "vectorizer": path}, "qa") == {"k": 3, "vectorizer": record}
    for options in ({"k": 3}, {"vectorizer": "openai/text-embedding-3-small"}):
        assert _import_vectorizer(dict(options), "qa") == options


def test_an_option_is_json_or_text() -> None:
    assert [_parse_option(text) for text in ("2", '"light"', "light", "null")] == [2, "light", "light", None]
