"""A rollout goes from stage to stage on data alone, and back at the first breach or refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.decision import HOLD_FACTOR, Decision, DecisionKind, decide, predictions_needed
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

BEGAN_S = 1_000_000.0
RECORD = RolloutRecord("r1", 3, RolloutState.RUNNING, 1, 10_000, 0, int(BEGAN_S * 1e6), "1.4", "1.5")
POLICY = parse_policy("{}")
BASELINE = ArmCounts(predictions=20_000, errors={"LMError": 200})
GOOD = ArmCounts(predictions=200, errors={"LMError": 2})
BAD = ArmCounts(predictions=1_000, errors={"LMError": 60})
SUSPICIOUS = ArmCounts(predictions=200, errors={"LMError": 4})


def decision(
    record: RolloutRecord = RECORD,
    policy: RolloutPolicy = POLICY,
    baseline: ArmCounts = BASELINE,
    candidate: ArmCounts = GOOD,
    *,
    refusals: tuple[str, ...] = (),
    held_s: float = 300.0,
    idle_s: float | None = 1.0,
) -> Decision:
    now_s = BEGAN_S + held_s
    last_s = None if idle_s is None else now_s - idle_s
    return decide(record, policy, baseline, candidate, refusals, now_s, BEGAN_S, last_s)


def in_state(state: RolloutState, **changes: Any) -> RolloutRecord:
    return replace(RECORD, state=state, **changes)


def test_a_new_rollout_begins_with_its_first_stage() -> None:
    found = decision(in_state(RolloutState.NEW, stage=0, share=0), baseline=ArmCounts(), candidate=ArmCounts())
    assert (found.kind, found.stage, found.share) == (DecisionKind.BEGIN, 1, 10_000)
    assert "1 %" in found.reason


def test_a_stage_that_was_held_long_enough_is_followed_by_the_next() -> None:
    found = decision()
    assert (found.kind, found.stage, found.share) == (DecisionKind.ADVANCE, 2, 100_000)
    assert "200 predictions" in found.reason
    assert "harm not ruled out: error_rate" in found.reason


def test_after_the_last_stage_the_candidate_is_promoted() -> None:
    found = decision(in_state(RolloutState.RUNNING, stage=3, share=500_000))
    assert (found.kind, found.stage, found.share) == (DecisionKind.PROMOTE, 0, 0)


def test_the_reason_says_what_was_shown_to_be_harmless() -> None:
    found = decision(candidate=ArmCounts(predictions=200_000, errors={"LMError": 1_500}))
    assert found.kind is DecisionKind.ADVANCE
    assert "shown to be within: error_rate max_increase 0.002" in found.reason


@pytest.mark.parametrize("held_s", [0.0, 1.0, 299.0, 1e6])
def test_a_breach_rolls_back_at_any_time(held_s: float) -> None:
    found = decision(candidate=BAD, held_s=held_s)
    assert found.kind is DecisionKind.ROLL_BACK
    assert found.reason.startswith("breached: error_rate max_increase 0.002: candidate 6 % (")


@pytest.mark.parametrize("state", [RolloutState.NEW, RolloutState.RUNNING, RolloutState.PAUSED])
def test_a_refusal_rolls_back_before_any_prediction_is_spent(state: RolloutState) -> None:
    refusals = ("worker@a: temperature is above 2", *(f"worker@{number}: no" for number in range(9)))
    found = decision(in_state(state), candidate=ArmCounts(), refusals=refusals)
    assert found.kind is DecisionKind.ROLL_BACK
    assert "temperature is above 2" in found.reason
    assert "and 7 more" in found.reason


def test_the_reason_of_a_refusal_stays_readable() -> None:
    assert len(decision(refusals=("x" * 100_000,)).reason) < 300


@pytest.mark.parametrize(
    ("baseline", "candidate", "held_s", "waits_for"),
    [
        (BASELINE, GOOD, 299.0, "4 min 59 s of 5 min"),
        (BASELINE, GOOD, -2.0, "0 s of 5 min"),
        (BASELINE, ArmCounts(predictions=199, errors={"LMError": 1}), 1e5, "1 more prediction of the candidate"),
        (ArmCounts(predictions=199, errors={"LMError": 2}), GOOD, 1e5, "1 more prediction of the baseline"),
        (ArmCounts(), ArmCounts(), 1e5, "no values yet for error_rate"),
        (BASELINE, SUSPICIOUS, 1e5, "more evidence, since the candidate looks worse; error_rate"),
    ],
)
def test_a_stage_never_ends_without_time_and_data(
    baseline: ArmCounts, candidate: ArmCounts, held_s: float, waits_for: str
) -> None:
    found = decision(baseline=baseline, candidate=candidate, held_s=held_s)
    assert found.kind is DecisionKind.NONE
    assert waits_for in found.reason


def test_a_candidate_that_looks_worse_without_proof_isnt_held_for_ever() -> None:
    """At its largest, the delay gives the guard a good chance to prove real harm."""
    policy = parse_policy({"stages": [{"share": 0.01, "min_predictions": 100}, {"share": 0.5}]})
    held, enough = (
        ArmCounts(predictions=number, errors={"LMError": round(number * 0.014)})
        for number in (100 * HOLD_FACTOR - 1, 100 * HOLD_FACTOR)
    )
    assert decision(policy=policy, candidate=held).kind is DecisionKind.NONE
    assert decision(policy=policy, candidate=enough).kind is DecisionKind.ADVANCE


def test_a_stage_waits_for_the_scores_that_a_guard_needs() -> None:
    policy = parse_policy({"guards": [{"metric": "score", "name": "helpful", "max_decrease": 0.1}]})
    scored = {"helpful": ScoreSum(50, 40_000_000)}
    waiting = decision(policy=policy, baseline=replace(BASELINE, scores=scored))
    assert waiting.kind is DecisionKind.NONE
    assert "no values yet for score helpful" in waiting.reason
    both = decision(policy=policy, baseline=replace(BASELINE, scores=scored), candidate=replace(GOOD, scores=scored))
    assert both.kind is DecisionKind.ADVANCE


def test_once_everybody_has_the_candidate_only_fixed_bounds_hold() -> None:
    record = in_state(RolloutState.RUNNING, stage=1, share=1_000_000)
    guards = [{"metric": "error_rate", "max_increase": 0.01}, {"metric": "error_rate", "max": 0.03}]
    policy = parse_policy({"stages": [{"share": 1}], "guards": guards})
    assert decision(record, policy, ArmCounts(), GOOD).kind is DecisionKind.PROMOTE
    assert decision(record, policy, ArmCounts(), BAD).kind is DecisionKind.ROLL_BACK


@pytest.mark.parametrize(
    ("held_s", "idle_s", "kind"),
    [
        (3_600.0, None, DecisionKind.PAUSE),
        (3_599.0, None, DecisionKind.NONE),
        (1e6, 3_600.0, DecisionKind.PAUSE),
        (1e6, 3_599.0, DecisionKind.NONE),
        (100.0, 1e5, DecisionKind.NONE),  # what was counted last is of the stage before
    ],
)
def test_a_rollout_without_data_is_paused(held_s: float, idle_s: float | None, kind: DecisionKind) -> None:
    few = ArmCounts(predictions=3)
    found = decision(baseline=few, candidate=few, held_s=held_s, idle_s=idle_s)
    assert found.kind is kind
    assert (f"{min(held_s, idle_s or held_s):.0f} s" in found.reason) is (kind is DecisionKind.PAUSE)


def test_a_paused_rollout_stays_where_it_is_but_its_guards_hold() -> None:
    paused = in_state(RolloutState.PAUSED)
    assert decision(paused).kind is DecisionKind.NONE
    assert decision(paused, idle_s=1e6, held_s=1e7).kind is DecisionKind.NONE
    assert decision(paused, candidate=BAD).kind is DecisionKind.ROLL_BACK


@pytest.mark.parametrize("state", [RolloutState.PROMOTED, RolloutState.ROLLED_BACK])
def test_what_is_decided_stays_so(state: RolloutState) -> None:
    found = decision(in_state(state), candidate=BAD, refusals=("no",))
    assert found.kind is DecisionKind.NONE
    assert found.reason == f"the rollout is {state.value.replace('_', ' ')}"


def test_a_policy_that_was_shortened_ends_at_its_last_stage() -> None:
    policy = parse_policy({"stages": [{"share": 0.01}]})
    assert decision(in_state(RolloutState.RUNNING, stage=3), policy).kind is DecisionKind.PROMOTE


def test_the_same_counts_always_lead_to_the_same_decision() -> None:
    assert decision(candidate=BAD) == decision(candidate=BAD)


@pytest.mark.parametrize("candidate", [GOOD, BAD, ArmCounts()])
def test_the_numbers_behind_a_decision_are_json(candidate: ArmCounts) -> None:
    detail = decision(candidate=candidate).detail()
    assert json.loads(json.dumps(detail, allow_nan=False)) == detail
    assert [guard["guard"] for guard in detail["guards"]] == ["error_rate max_increase 0.002"]


@pytest.mark.parametrize(
    ("share", "baseline", "candidate", "needed"),
    [(0.01, 0, 0, (200, 200)), (0.01, 150, 20, (50, 180)), (0.8, 0, 150, (50, 50)), (0.01, 999, 999, (0, 0))],
)
def test_how_many_predictions_a_stage_still_needs(
    share: float, baseline: int, candidate: int, needed: tuple[int, int]
) -> None:
    policy = parse_policy({"stages": [{"share": share}]})
    arms = (ArmCounts(predictions=baseline), ArmCounts(predictions=candidate))
    found = predictions_needed(RECORD, policy, *arms)
    assert (found.baseline, found.candidate) == needed
