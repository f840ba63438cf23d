"""The record of a rollout, as people see it."""

from __future__ import annotations

from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState


def test_it_is_shown_on_a_line() -> None:
    record = RolloutRecord("r-1", 3, RolloutState.RUNNING, 1, 300_000, 0, 1_700_000_000_000_000, "5.1", "5.2")
    assert repr(record) == (
        "RolloutRecord(id='r-1', state='running', stage=1, share=0.3, baseline='5.1', candidate='5.2')"
    )
    assert RolloutRecord.parse(str(record)) == record
