"""Decide what happens to a rollout next, from its record, its policy and what was counted alone.

So whoever decides may be killed at any moment, and whoever comes next decides the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.guard_reports import GuardReport, evaluate
from snakepit_bridge.rollouts.guards import GuardVerdict
from snakepit_bridge.rollouts.policy import RolloutPolicy, Stage
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState
from snakepit_bridge.rollouts.units import format_duration

HOLD_FACTOR = 5
"""A candidate that looks harmful is held until it has this many times its stage's least predictions."""

_MAX_REFUSALS, _MAX_REFUSAL_CHARS = 3, 200


class DecisionKind(StrEnum):
    """What is done: nothing, or one change of the record."""

    NONE = "none"
    BEGIN = "begin"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens next, and why.

    Attributes:
        kind: what is done.
        reason: why, for people.
        evidence: what each guard says.
        stage: the number of the stage that begins, from 1; else 0.
        share: the candidate's share in that stage, in millionths; else 0.
    """

    kind: DecisionKind
    reason: str
    evidence: tuple[GuardReport, ...] = ()
    stage: int = 0
    share: int = 0

    def detail(self) -> dict[str, Any]:
        """Return the evidence as JSON values, for the event."""
        return {"guards": [report.as_dict() for report in self.evidence]}


@dataclass(frozen=True, slots=True)
class PredictionsNeeded:
    """How many predictions a stage still needs before it can end.

    Attributes:
        baseline, candidate: of each arm.
    """

    baseline: int
    candidate: int


def decide(
    record: RolloutRecord,
    policy: RolloutPolicy,
    baseline: ArmCounts,
    candidate: ArmCounts,
    refusals: Sequence[str],
    now_s: float,
    stage_began_s: float,
    last_counted_s: float | None,
) -> Decision:
    """Return what happens to a rollout next.

    Guards hold while a rollout is paused, too: its candidate still gets its share.

    Args:
        record: the rollout.
        policy: its policy.
        baseline, candidate: what was counted of each arm since the stage began.
        refusals: why workers refuse the candidate, one text each.
        now_s: the time, in Unix seconds by the store's clock.
        stage_began_s: when the stage's share began to count.
        last_counted_s: when a prediction of either arm was counted last or the rollout was resumed, whichever was
            later; None if neither happened.
    """
    if not record.is_open:
        return Decision(DecisionKind.NONE, f"the rollout is {record.state.replace('_', ' ')}")
    if refusals:
        return Decision(DecisionKind.ROLL_BACK, f"the candidate is refused: {_join_refusals(refusals)}")
    if record.state is RolloutState.NEW:
        return _begin(policy, 1, f"stage 1 of {len(policy.stages)} begins")
    reports = tuple(evaluate(guard, baseline, candidate, policy.alpha) for guard in policy.guards)
    breached = [str(report) for report in reports if report.verdict is GuardVerdict.BREACHED]
    if breached:
        return Decision(DecisionKind.ROLL_BACK, f"breached: {'; '.join(breached)}", reports)
    if record.state is RolloutState.PAUSED:
        return Decision(DecisionKind.NONE, "the rollout is paused; resume it, advance it or abort it", reports)
    idle_s = now_s - max(stage_began_s, last_counted_s or 0.0)
    if idle_s >= policy.pause_after_s:
        return Decision(DecisionKind.PAUSE, f"no prediction was counted for {idle_s:.0f} s", reports)
    stage = _stage_of(record, policy)
    waits = _list_waits(stage, baseline, candidate, reports, now_s - stage_began_s)
    if waits:
        return Decision(DecisionKind.NONE, f"stage {record.stage} waits: {'; '.join(waits)}", reports)
    return _go_on(record, policy, candidate, reports, now_s - stage_began_s)


def predictions_needed(
    record: RolloutRecord, policy: RolloutPolicy, baseline: ArmCounts, candidate: ArmCounts
) -> PredictionsNeeded:
    """Return how many predictions a rollout's stage still needs.

    Args:
        record: the rollout.
        policy: its policy.
        baseline, candidate: what was counted of each arm since the stage began.
    """
    return _needed(_stage_of(record, policy), baseline, candidate)


def _needed(stage: Stage, baseline: ArmCounts, candidate: ArmCounts) -> PredictionsNeeded:
    return PredictionsNeeded(
        max(0, stage.baseline_predictions - baseline.predictions),
        max(0, stage.min_predictions - candidate.predictions),
    )


def _stage_of(record: RolloutRecord, policy: RolloutPolicy) -> Stage:
    """Return the policy's stage; the last one if the policy has been shortened since."""
    return policy.stages[min(max(record.stage, 1), len(policy.stages)) - 1]


def _begin(policy: RolloutPolicy, number: int, reason: str, reports: tuple[GuardReport, ...] = ()) -> Decision:
    share = policy.stages[number - 1].share
    kind = DecisionKind.BEGIN if number == 1 else DecisionKind.ADVANCE
    return Decision(kind, f"{reason}; the candidate gets {100 * share / MILLION:g} %", reports, number, share)


def _go_on(
    record: RolloutRecord,
    policy: RolloutPolicy,
    candidate: ArmCounts,
    reports: tuple[GuardReport, ...],
    held_s: float,
) -> Decision:
    """Return the decision to begin the next stage, or to promote the candidate after the last one."""
    reason = f"stage {record.stage} had no breach in {held_s:.0f} s and {candidate.predictions} predictions"
    healthy = [report.guard for report in reports if report.verdict is GuardVerdict.HEALTHY]
    unproven = [report.guard for report in reports if report.verdict is GuardVerdict.OPEN]
    if healthy:
        reason += f"; shown to be within: {', '.join(healthy)}"
    if unproven:
        reason += f"; harm not ruled out: {', '.join(unproven)}"
    if record.stage >= len(policy.stages):
        return Decision(DecisionKind.PROMOTE, f"{reason}; everybody gets the candidate", reports)
    return _begin(policy, record.stage + 1, reason, reports)


def _list_waits(
    stage: Stage, baseline: ArmCounts, candidate: ArmCounts, reports: Sequence[GuardReport], held_s: float
) -> list[str]:
    """Return what keeps a stage from ending."""
    needed = _needed(stage, baseline, candidate)
    waits: list[str] = []
    if held_s < stage.min_s:
        waits.append(f"{format_duration(max(0.0, held_s))} of {format_duration(stage.min_s)}")
    for arm, missing in (("candidate", needed.candidate), ("baseline", needed.baseline)):
        if missing:
            waits.append(f"{missing} more prediction{'' if missing == 1 else 's'} of the {arm}")
    for report in reports:
        # Once everybody has the candidate, there is no baseline to compare it with.
        if report.measured_harm is None and not (stage.share == MILLION and report.baseline):
            waits.append(f"no values yet for {report.guard}")
        elif report.looks_harmful and candidate.predictions < HOLD_FACTOR * stage.min_predictions:
            waits.append(f"more evidence, since the candidate looks worse; {report}")
    return waits


def _join_refusals(refusals: Sequence[str]) -> str:
    texts = [text[:_MAX_REFUSAL_CHARS] for text in refusals[:_MAX_REFUSALS]]
    more = len(refusals) - len(texts)
    return "; ".join(texts) + (f"; and {more} more" if more else "")
