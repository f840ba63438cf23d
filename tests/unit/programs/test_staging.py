"""Which version a staged label stands for: the baseline, or the candidate for the keys of its share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.staging import assign_entry, parse_entry, parse_record, rollout_target, to_entry
from snakepit_bridge.rollouts.assignment import MILLION, is_candidate
from snakepit_bridge.rollouts.records import ArmAssignment, RolloutRecord, RolloutState

OLD, NEW = "a" * 64, "b" * 64
BASELINE, CANDIDATE = f"3 {OLD}".encode(), f"4 {NEW}".encode()
RECORD = RolloutRecord("r1", 4, RolloutState.RUNNING, 2, 300_000, 100_000, 0, f"3:{OLD}", f"4:{NEW}")
KEYS = [f"user-{number}" for number in range(200)]


@pytest.mark.parametrize("state", [RolloutState.RUNNING, RolloutState.PAUSED])
def test_the_keys_of_the_share_get_the_candidate(state: RolloutState) -> None:
    record = replace(RECORD, state=state)
    for key in KEYS:
        tried = is_candidate("r1", key, 300_000)
        arm = ArmAssignment("r1", "candidate" if tried else "baseline", 2, "program:qa@prod")
        expected = CANDIDATE if tried else BASELINE
        assert assign_entry("qa", "prod", BASELINE, record, key, 1.0) == (expected, arm)


def test_before_its_time_the_previous_share_counts() -> None:
    record = replace(RECORD, since_us=10_000_000)
    for key in KEYS:
        expected = CANDIDATE if is_candidate("r1", key, 100_000) else BASELINE
        assert assign_entry("qa", "prod", BASELINE, record, key, 9.9)[0] == expected


def test_before_the_first_stage_all_are_assigned_to_the_baseline() -> None:
    record = RolloutRecord("r1", 1, RolloutState.NEW, 0, 0, 0, 0, f"3:{OLD}", f"4:{NEW}")
    expected = BASELINE, ArmAssignment("r1", "baseline", 0, "program:qa@prod")
    assert all(assign_entry("qa", "prod", BASELINE, record, key, 1.0) == expected for key in KEYS)


@pytest.mark.parametrize("state", [RolloutState.ROLLED_BACK, RolloutState.PROMOTED])
def test_a_decided_rollout_assigns_nothing(state: RolloutState) -> None:
    record = replace(RECORD, state=state, share=MILLION)
    assert all(assign_entry("qa", "prod", BASELINE, record, key, 1.0) == (BASELINE, None) for key in KEYS)


def test_entries_are_parsed_and_written() -> None:
    assert parse_entry("qa", CANDIDATE) == (4, NEW)
    assert to_entry(RECORD.candidate).encode() == CANDIDATE
    assert rollout_target("qa", "prod") == "program:qa@prod"


@pytest.mark.parametrize("text", [b"", b"r1 4 running", b"\xff", b"r1 4 gone 2 1 1 0 a b"])
def test_what_is_no_record_is_a_named_error(text: bytes) -> None:
    assert parse_record("qa", str(RECORD).encode()) == RECORD
    with pytest.raises(ProgramSpecError, match="restore that key"):
        parse_record("qa", text)
