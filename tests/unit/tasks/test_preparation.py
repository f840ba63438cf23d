"""Which revision of a staged session a request runs under, and which arm it is counted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snakepit_bridge.protocol.messages import PredictionRequest, Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState, assign
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.preparation import choose_revision

OLD, NEW = Token(1, 4), Token(1, 5)
BASELINE = Snapshot("s", OLD, {}, 0.0)
RECORD = RolloutRecord("salt", 3, RolloutState.RUNNING, 1, 250_000, 0, 100_000_000, str(OLD), str(NEW))
NEWEST = Snapshot("s", NEW, {}, 0.0).with_staging(RECORD, BASELINE)
LATEST = PredictionRequest("qa", {}, "s")
KEYS = [f"user-{number}" for number in range(200)]


def arms_of(newest: Snapshot, now_s: float = 200.0) -> set[str]:
    chosen = {key: choose_revision(newest, LATEST, key, now_s) for key in KEYS}
    measured = [(shot, arm) for shot, arm in chosen.values() if arm is not None]
    assert all((arm.arm == "candidate") == (shot.token == NEW) for shot, arm in measured)
    assert {arm.stage for _, arm in measured} <= {newest.rollout.stage_at(now_s)}
    return {key for key, (shot, _) in chosen.items() if shot.token == NEW}


def test_a_share_of_the_keys_gets_the_candidate() -> None:
    assert arms_of(NEWEST) == {key for key in KEYS if assign(RECORD, key, 200.0, "").arm == "candidate"}
    assert 20 < len(arms_of(NEWEST)) < 80


def test_a_stage_that_has_not_begun_does_not_count() -> None:
    assert arms_of(NEWEST, now_s=99.0) == set()
    assert all(choose_revision(NEWEST, LATEST, key, 99.0)[1] is None for key in KEYS), "nothing is measured yet"


def test_a_stage_only_adds_keys() -> None:
    record = RECORD.change(RolloutState.RUNNING, stage=2, share=500_000, since_us=300_000_000)
    later = NEWEST.with_staging(record, BASELINE)
    assert arms_of(later, now_s=299.0) == arms_of(NEWEST)
    assert arms_of(later, now_s=301.0) > arms_of(NEWEST)


def test_a_rollback_counts_at_once_and_is_measured_no_more() -> None:
    later = NEWEST.with_staging(RECORD.change(RolloutState.ROLLED_BACK, share=0, since_us=10**15), BASELINE)
    assert all(choose_revision(later, LATEST, key, 200.0) == (BASELINE, None) for key in KEYS)


@pytest.mark.parametrize("state", [RolloutState.NEW, RolloutState.ROLLED_BACK])
def test_before_and_after_its_stages_everybody_has_the_baseline(state: RolloutState) -> None:
    later = NEWEST.with_staging(replace(RECORD, state=state, share=0), BASELINE)
    assert choose_revision(later, LATEST, "user", 200.0) == (BASELINE, None)


def test_a_promoted_revision_is_everybodys() -> None:
    later = NEWEST.with_staging(replace(RECORD, state=RolloutState.PROMOTED), None)
    assert choose_revision(later, LATEST, "user", 200.0) == (later, None)


def test_a_session_without_a_rollout_is_not_staged() -> None:
    assert choose_revision(BASELINE, LATEST, "user", 200.0) == (BASELINE, None)


def test_a_baseline_that_is_lost_stages_nothing() -> None:
    later = NEWEST.with_staging(RECORD, None)
    assert choose_revision(later, LATEST, "user", 200.0) == (later, None)


@pytest.mark.parametrize(("least", "found"), [(OLD, BASELINE), (Token(1, 1), BASELINE), (NEW, NEWEST)])
def test_at_least_gets_the_baseline_where_that_is_enough(least: Token, found: Snapshot) -> None:
    request = replace(LATEST, requirement=Requirement.of(at_least=least))
    assert all(choose_revision(NEWEST, request, key, 200.0) == (found, None) for key in KEYS)


def test_exactly_gets_that_and_is_not_measured() -> None:
    request = replace(LATEST, requirement=Requirement.of(exactly=NEW))
    assert all(choose_revision(NEWEST, request, key, 200.0) == (NEWEST, None) for key in KEYS)


def test_without_a_key_it_is_the_baseline() -> None:
    assert choose_revision(NEWEST, LATEST, "", 200.0) == (BASELINE, None)
