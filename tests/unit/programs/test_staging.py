"""Which version a staged label stands for: the baseline, or the candidate for the keys of its share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.staging import (
    StagedLabel,
    parse_entry,
    parse_label_experiments,
    parse_record,
    rollout_target,
    to_arm,
    to_entry,
)
from snakepit_bridge.rollouts.assignment import MILLION, is_candidate
from snakepit_bridge.rollouts.experiments import Experiment, encode_experiments
from snakepit_bridge.rollouts.records import ArmAssignment, RolloutRecord, RolloutState

OLD, NEW = "a" * 64, "b" * 64
BASELINE, CANDIDATE = f"3 {OLD}".encode(), f"4 {NEW}".encode()
RECORD = RolloutRecord("r1", 4, RolloutState.RUNNING, 2, 300_000, 100_000, 0, f"3:{OLD}", f"4:{NEW}")
KEYS = [f"user-{number}" for number in range(200)]


def staged(record: RolloutRecord | None = None, *experiments: Experiment) -> StagedLabel:
    """Return the label as it is read with a record and experiments."""
    texts = str(record).encode() if record else None, encode_experiments(experiments).encode() or None
    return StagedLabel("qa", "prod", BASELINE, *texts)


def experiment(name: str, from_share: float, to_share: float, segment: Any = None) -> Experiment:
    arms = [
        {"name": "old", "weight": 0.5, "revision": f"3:{OLD}"},
        {"name": "new", "weight": 0.5, "revision": f"4:{NEW}"},
    ]
    fields = {"from_share": from_share, "to_share": to_share, "arms": arms, "segment": segment}
    return Experiment.model_validate({"id": name, "name": name, **fields})


@pytest.mark.parametrize("state", [RolloutState.RUNNING, RolloutState.PAUSED])
def test_the_keys_of_the_share_get_the_candidate(state: RolloutState) -> None:
    record = replace(RECORD, state=state)
    for key in KEYS:
        tried = is_candidate("r1", key, 300_000)
        arm = ArmAssignment("r1", "candidate" if tried else "baseline", 2, "program:qa@prod")
        expected = CANDIDATE if tried else BASELINE
        assert staged(record).assign(key, {}, 1.0) == (expected, arm)


def test_before_its_time_the_previous_share_counts() -> None:
    record = replace(RECORD, since_us=10_000_000)
    for key in KEYS:
        expected = CANDIDATE if is_candidate("r1", key, 100_000) else BASELINE
        entry, assignment = staged(record).assign(key, {}, 9.9)
        assert entry == expected
        assert assignment is not None
        assert assignment.stage == 1


def test_before_the_first_stage_all_have_the_baseline_and_none_is_measured() -> None:
    record = RolloutRecord("r1", 1, RolloutState.NEW, 0, 0, 0, 0, f"3:{OLD}", f"4:{NEW}")
    assert all(staged(record).assign(key, {}, 1.0) == (BASELINE, None) for key in KEYS)


@pytest.mark.parametrize("state", [RolloutState.ROLLED_BACK, RolloutState.PROMOTED])
def test_a_decided_rollout_assigns_nothing(state: RolloutState) -> None:
    record = replace(RECORD, state=state, share=MILLION)
    assert all(staged(record).assign(key, {}, 1.0) == (BASELINE, None) for key in KEYS)


def test_requests_of_an_experiment_get_the_version_of_their_arm() -> None:
    label = staged(None, experiment("tone", 0, 0.5))
    arms = [label.assign(key, {}, 1.0) for key in KEYS]
    versions = {"old": BASELINE, "new": CANDIDATE}
    for entry, assignment in arms:
        assert entry == (versions[assignment.arm] if assignment else BASELINE)
    taking_part = {assignment.arm for _, assignment in arms if assignment}
    assert taking_part == {"old", "new"}
    assert any(assignment is None for _, assignment in arms)


def test_who_is_not_in_the_segment_gets_what_the_label_points_at() -> None:
    label = staged(None, experiment("tone", 0, 1, {"properties": {"plan": {"const": "pro"}}, "required": ["plan"]}))
    assert label.assign("user-1", {"plan": "free"}, 1.0) == (BASELINE, None)
    assert label.assign("user-1", {}, 1.0) == (BASELINE, None)
    assignment = label.assign("user-1", {"plan": "pro"}, 1.0)[1]
    assert assignment is not None
    assert (assignment.rollout, assignment.stage, assignment.target) == ("tone", 0, "program:qa@prod")


def test_a_decided_rollout_gives_way_to_experiments() -> None:
    label = staged(replace(RECORD, state=RolloutState.ROLLED_BACK), experiment("tone", 0, 1))
    assignment = label.assign("user-1", {}, 1.0)[1]
    assert assignment is not None
    assert assignment.rollout == "tone"


def test_entries_are_parsed_and_written() -> None:
    assert parse_entry("qa", CANDIDATE) == (4, NEW)
    assert to_entry(RECORD.candidate).encode() == CANDIDATE
    assert to_arm(4, NEW) == RECORD.candidate
    assert rollout_target("qa", "prod") == "program:qa@prod"


@pytest.mark.parametrize("text", [b"", b"r1 4 running", b"\xff", b"r1 4 gone 2 1 1 0 a b"])
def test_what_is_no_record_is_a_named_error(text: bytes) -> None:
    assert parse_record("qa", str(RECORD).encode()) == RECORD
    with pytest.raises(ProgramSpecError, match="restore that key"):
        parse_record("qa", text)


@pytest.mark.parametrize("text", [b"{", b"[{}]", b"[1]", b"\xff", b"7", b'"x"'])
def test_what_are_no_experiments_is_a_named_error(text: bytes) -> None:
    assert parse_label_experiments("qa", b"") == ()
    with pytest.raises(ProgramSpecError, match="restore that key"):
        parse_label_experiments("qa", text)
