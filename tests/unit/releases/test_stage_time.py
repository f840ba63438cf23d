"""A stage's time is what passed since it began, without the pauses that the events tell of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snakepit_bridge.releases.stage_time import measure_stage
from snakepit_bridge.rollouts.events import RolloutEvent, RolloutEventKind
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

RECORD = RolloutRecord("r", 3, RolloutState.RUNNING, 2, 100_000, 10_000, 1_000_000_000, "1.1", "1.2")

EARLIER = replace(RECORD, stage=1)


def event(kind: RolloutEventKind, at: float, record: RolloutRecord = RECORD) -> RolloutEvent:
    return RolloutEvent(kind, record, at=at)


@pytest.mark.parametrize(
    ("events", "ran_s", "resumed_s"),
    [
        ([], 500, 1_000),
        ([event("stage", 998)], 500, 1_000),
        ([event("paused", 1_100), event("resumed", 1_150)], 450, 1_150),
        ([event("paused", 1_100), event("resumed", 1_150), event("paused", 1_200), event("resumed", 1_300)],
         350, 1_300),
        ([event("paused", 1_100)], 100, 1_000),
        ([event("paused", 999), event("resumed", 1_100)], 400, 1_100),
        ([event("resumed", 1_100)], 500, 1_000),
        ([event("paused", 1_100, EARLIER), event("resumed", 1_150, EARLIER)], 500, 1_000),
        ([event("paused", 1_100, replace(RECORD, id="other"))], 500, 1_000),
    ],
)  # fmt: skip
def test_pauses_of_the_stage_are_left_out(events: list[RolloutEvent], ran_s: float, resumed_s: float) -> None:
    passed = measure_stage(RECORD, events, 1_500)
    assert (passed.since_s, passed.ran_s, passed.resumed_s) == (1_000, ran_s, resumed_s)


def test_before_its_share_counts_a_stage_has_no_time() -> None:
    assert measure_stage(RECORD, [], 999).ran_s == 0


def test_before_the_first_stage_time_counts_from_the_start() -> None:
    new = replace(RECORD, state=RolloutState.NEW, stage=0, since_us=0)
    assert measure_stage(new, [event("started", 1_400, new)], 1_500).since_s == 1_400
    assert measure_stage(new, [], 1_500).since_s == 1_500
