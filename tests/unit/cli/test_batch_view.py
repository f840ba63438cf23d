"""What a bulk run shows while it goes, on a terminal and in a pipe."""

from __future__ import annotations

from decimal import Decimal

import pytest

from snakepit_bridge.cli import batch_view
from snakepit_bridge.cli.batch_view import (
    describe_duration,
    describe_errors,
    describe_progress,
    describe_start,
    list_errors,
    show_progress,
)
from snakepit_bridge.client.bulk.checkpoint import BulkState
from snakepit_bridge.client.bulk.progress import BulkProgress, BulkReport, RateMeter

STATE = BulkState(
    line=398, done=400, failed=8, cost_usd=Decimal("39.2"), priced=392, errors={"LMAnswerError": 5, "InputError": 3}
)


def test_rate_money_time_and_errors_are_seen_at_a_glance() -> None:
    progress = BulkProgress(1_000, STATE, in_flight=64, per_s=10.0)
    assert describe_progress(progress) == (
        "10/s, 64 in flight, 39.20 of 99.20 USD, 60 s left, 8 failed: LMAnswerError 5, InputError 3"
    )
    assert describe_progress(BulkProgress(1_000, BulkState())) == "0/s, 0 in flight"


def test_rare_kinds_of_errors_are_counted_together() -> None:
    assert describe_errors({"A": 1, "B": 5, "C": 3, "D": 1, "E": 2}) == "B 5, C 3, E 2, others 2"


@pytest.mark.parametrize(
    ("seconds", "text"), [(42.4, "42 s"), (180, "3 min"), (4_800, "80 min"), (9_000, "2 h 30 min")]
)
def test_a_duration_is_told_in_the_unit_that_it_has(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text


def test_a_pipe_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_view, "_LINE_INTERVAL_S", 0.0)
    with show_progress("qa", lambda: True) as tell:
        tell(BulkProgress(1_000, STATE))
        tell(BulkProgress(1_000, STATE, 3, 2.0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "batch: 400 of 1000 lines are done already, 8 of them failed; resuming at line 399"
    assert lines[1].startswith("batch: 400 of 1000 lines, 2/s, 3 in flight, waiting for the first answer")


def test_a_run_says_at_once_what_it_is_going_to_do() -> None:
    fresh, over = BulkProgress(1_000, BulkState()), BulkProgress(400, STATE)
    assert describe_start(fresh, has_workers=True) == "sending 1000 lines"
    assert describe_start(fresh, has_workers=False).endswith(
        "no worker runs yet, so they wait for one: dspex-fleet worker"
    )
    assert describe_start(over, has_workers=True) == "400 of 400 lines are done already, 8 of them failed"


def test_each_kind_of_error_is_listed_with_an_example() -> None:
    errors, examples = {"InputError": 3, "LMAnswerError": 5}, {"LMAnswerError": "line 7: it is no number"}
    report = BulkReport(10, 10, 8, errors, Decimal(0), 0, 1.0, "", examples)
    assert list(list_errors(report)) == ["5 LMAnswerError, the first at line 7: it is no number", "3 InputError"]


def test_the_rate_is_that_of_the_last_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("snakepit_bridge.client.bulk.progress.time.monotonic", lambda: now)
    meter = RateMeter(100)
    rates: list[float] = []
    for second in range(1, 101):
        now = float(second)
        assert meter.is_due()
        rates.append(meter.count(100 + (min(second, 50))))
    assert rates[9] == rates[49] == 1.0
    assert rates[-1] == 0.0
