"""The report on a rollout: both arms side by side, what each guard says of them, and what the stage waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.exceptions import RolloutPolicyError
from snakepit_bridge.releases.counts import MINUTE_S, StageCounts, StageCountsReader
from snakepit_bridge.releases.decisions import decide_now, read_policy
from snakepit_bridge.releases.stage_time import StageTime, measure_stage
from snakepit_bridge.releases.targets import RolloutTarget, TargetState
from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.decision import DecisionKind, PredictionsNeeded, predictions_needed
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.guard_reports import GuardReport, evaluate
from snakepit_bridge.rollouts.guards import GuardVerdict
from snakepit_bridge.rollouts.looks import RolloutLook
from snakepit_bridge.rollouts.policy import RolloutPolicy
from snakepit_bridge.rollouts.records import RolloutRecord
from snakepit_bridge.rollouts.sketch import quantile

# A worker begins the first stage within a second, and another one takes its place within several.
_CONTROLLER_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """How a rollout stands, or how it ended.

    Attributes:
        target: what is staged: ``session:NAME`` or ``program:NAME@LABEL``.
        record: how far it is.
        policy: how it goes on; None if there is no valid one.
        problem: what is wrong with the policy; empty if it is valid.
        baseline, candidate: what was counted of each arm in the present stage, or in the last one.
        guards: what each guard says of them.
        needed: how many predictions the stage still needs.
        ran_s: seconds that the stage has run, without pauses.
        outlook: what the rollout waits for, or how it ended.
        refusals: why live processes refuse the candidate.
        events: what has happened to it, oldest first.
        looks: what the guards said over time, oldest first; None if that wasn't read.
    """

    target: str
    record: RolloutRecord
    policy: RolloutPolicy | None = field(repr=False)
    problem: str
    baseline: ArmCounts = field(repr=False)
    candidate: ArmCounts = field(repr=False)
    guards: tuple[GuardReport, ...] = field(repr=False)
    needed: PredictionsNeeded = field(repr=False)
    ran_s: float
    outlook: str
    refusals: tuple[str, ...]
    events: tuple[RolloutEvent, ...] = field(repr=False)
    looks: tuple[RolloutLook, ...] | None = field(default=None, repr=False)

    @property
    def is_superseded(self) -> bool:
        """Whether it ended without a decision; its record is as it was then."""
        return bool(self.events) and self.events[-1].kind == "superseded"

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.record.is_open and not self.is_superseded

    def verdict_of(self, guard: GuardReport) -> GuardVerdict:
        """Return a guard's verdict: of a rollout that has ended the one that ended it, whatever was counted later.

        Args:
            guard: one of ``guards``.
        """
        last = self.events[-1] if self.events else None
        decided = last.detail.get("guards", ()) if last and last.kind in ("promoted", "rolled_back") else ()
        found = next((each["verdict"] for each in decided if each["guard"] == guard.guard), guard.verdict)
        return GuardVerdict(found)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        looks = {} if self.looks is None else {"looks": [look.as_dict() for look in self.looks]}
        return {
            "target": self.target,
            "rollout": self.record.as_dict() | ({"state": "superseded"} if self.is_superseded else {}),
            "policy": None if self.policy is None else self.policy.model_dump(exclude_none=True),
            "problem": self.problem,
            "arms": {"baseline": arm_dict(self.baseline), "candidate": arm_dict(self.candidate)},
            "guards": [report.as_dict() | {"verdict": self.verdict_of(report).value} for report in self.guards],
            "needed": {"baseline": self.needed.baseline, "candidate": self.needed.candidate},
            "ran_s": round(self.ran_s, 3),
            "outlook": self.outlook,
            "refusals": list(self.refusals),
            "events": [event_dict(event) for event in self.events],
            **looks,
        }


def event_dict(event: RolloutEvent) -> dict[str, Any]:
    """Return an event as JSON values."""
    about = {"kind": event.kind, "at": event.at, "author": event.author, "reason": event.reason}
    return {**about, "rollout": event.record.as_dict(), "detail": dict(event.detail), "position": event.position}


def arm_dict(counts: ArmCounts) -> dict[str, Any]:
    """Return what was counted of an arm as JSON values."""
    scores = {
        name: {"count": score.count, "mean": score.millionths / MILLION / score.count if score.count else None}
        for name, score in sorted(counts.scores.items())
    }
    milliseconds = {f"p{round(100 * level)}_ms": quantile(counts.latency, level) for level in (0.5, 0.95)}
    return {
        "predictions": counts.predictions,
        "errors": dict(sorted(counts.errors.items())),
        **milliseconds,
        "input_tokens": counts.input_tokens,
        "output_tokens": counts.output_tokens,
        "cost_usd": counts.cost_pico / 1e12,
        "scores": scores,
    }


async def read_report(target: RolloutTarget, state: TargetState, reader: StageCountsReader) -> RolloutReport:
    """Return the report on a target's rollout.

    Args:
        target: what is staged.
        state: how it stands.
        reader: reads what was counted.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    events = tuple(event for event in state.events if event.record.id == state.record.id)
    staged, until_s = _find_stage(state, events)
    passed = measure_stage(staged, events, until_s)
    counts = StageCounts()
    if staged.stage:
        # What had begun by its end is counted a little later.
        counts = await reader.read(staged.id, staged.stage, passed.since_s, min(state.now_s, until_s + MINUTE_S))
    superseded = bool(events) and events[-1].kind == "superseded"
    try:
        policy, problem = read_policy(state), ""
    except RolloutPolicyError as exc:
        policy, problem = None, "" if superseded else str(exc)
    guards = () if policy is None else policy.guards
    alpha = 0.0 if policy is None else policy.alpha
    return RolloutReport(
        target=str(target.name),
        record=state.record,
        policy=policy,
        problem=problem,
        baseline=counts.baseline,
        candidate=counts.candidate,
        guards=tuple(evaluate(guard, counts.baseline, counts.candidate, alpha) for guard in guards),
        needed=_count_needed(state.record, policy, counts),
        ran_s=passed.ran_s,
        outlook=problem or _foresee(state, policy, counts, passed, events),
        refusals=state.refusals,
        events=events,
    )


def _find_stage(state: TargetState, events: Sequence[RolloutEvent]) -> tuple[RolloutRecord, float]:
    """Return the record of the present or last stage in which the candidate had a share, and when that ended."""
    record = state.record
    if record.is_open and (record.share or not record.stage):
        return record, state.now_s
    stages = [event.record for event in events if event.record.is_open and event.record.share]
    return (stages[-1] if stages else record), (events[-1].at if events else state.now_s)


def _count_needed(record: RolloutRecord, policy: RolloutPolicy | None, counts: StageCounts) -> PredictionsNeeded:
    if policy is None or not record.is_open:
        return PredictionsNeeded(0, 0)
    return predictions_needed(record, policy, counts.baseline, counts.candidate)


def _foresee(
    state: TargetState,
    policy: RolloutPolicy | None,
    counts: StageCounts,
    passed: StageTime,
    events: Sequence[RolloutEvent],
) -> str:
    """Return what the controller would say now, or the reason for the end."""
    if not state.record.is_open or policy is None:
        return events[-1].reason if events else ""
    decision = decide_now(state, policy, counts, passed)
    if decision.kind is DecisionKind.BEGIN and events and state.now_s - events[0].at > _CONTROLLER_PATIENCE_S:
        waited_s = state.now_s - events[0].at
        return f"waits for a worker since {waited_s:.0f} s: no process looks after rollouts"
    return decision.reason
