"""How predictions ended, in a bounded number of lines."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from tasks import prediction_log
from tasks.prediction_log import PredictionEnd, PredictionLog
from tests.harness.waiting import wait_until


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(prediction_log, "_clock", clock)
    return clock


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "tasks.prediction_log")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_line_says_how_a_prediction_ended(lines: Callable[[], list[str]], caplog: pytest.LogCaptureFixture) -> None:
    usage = {"a": {"prompt_tokens": 30, "completion_tokens": 4}, "b": {"prompt_tokens": 1, "completion_tokens": 1}}
    log = PredictionLog()
    log.record(PredictionEnd("t-1", "ok", program="qa", duration_s=1.2346, latency_s=2.0, usage=usage, cost_usd="0.01"))
    log.record(PredictionEnd("t-2", "failed", error_type="LMUnavailableError", duration_s=0.5))
    log.record(PredictionEnd("t-3", "cancelled"))
    assert lines() == [
        "Prediction ok in 1.235 s, 31 input and 5 output tokens, 0.01 USD",
        "Prediction failed with LMUnavailableError in 0.500 s",
        "Prediction cancelled",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    fields = caplog.records[0].__dict__
    assert (fields["task_id"], fields["program"], fields["outcome"]) == ("t-1", "qa", "ok")
    assert (fields["duration_s"], fields["latency_s"], fields["input_tokens"]) == (1.235, 2.0, 31)


def test_a_process_logs_so_many_a_second_and_says_how_many_it_left_out(
    clock: Clock, lines: Callable[[], list[str]]
) -> None:
    log = PredictionLog()
    log.max_per_s = 3
    for _ in range(3):
        for number in range(10):
            log.record(PredictionEnd(f"t-{number}", "ok"))
        clock.now += 1
    assert len(lines()) == 9
    log.flush()
    assert lines()[9:] == ["21 ends of predictions were left out of the log: 21 ok"]
    log.flush()
    assert len(lines()) == 10


@pytest.mark.parametrize(("max_per_s", "failures"), [(0, 10), (0.5, 10), (3, 30)])
def test_failures_have_a_higher_bound_of_their_own(
    clock: Clock, lines: Callable[[], list[str]], max_per_s: float, failures: int
) -> None:
    log = PredictionLog()
    log.max_per_s = max_per_s
    for number in range(100):
        log.record(PredictionEnd(f"t-{number}", "ok"))
        log.record(PredictionEnd(f"t-{number}", "failed", error_type="ValidationError"))
    assert len([line for line in lines() if "failed" in line]) == failures
    assert len([line for line in lines() if "ok" in line]) == (max(1, max_per_s) if max_per_s else 0)


def test_what_was_left_out_is_told_in_the_background(lines: Callable[[], list[str]]) -> None:
    log = PredictionLog()
    log.max_per_s, log.summary_interval_s = 0, 0.05
    log.record(PredictionEnd("t-1", "ok"))
    wait_until(lambda: lines() == ["1 ends of predictions were left out of the log: 1 ok"], "the summary")


def test_nothing_is_counted_where_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "tasks.prediction_log")
    log = PredictionLog()
    log.max_per_s = 0
    log.record(PredictionEnd("t-1", "ok"))
    log.flush()
    assert not log.is_enabled
    assert caplog.records == []
