"""For how long the present stage of a rollout has run: pauses don't count.

The record says when the stage's share began to count, and the events when it was paused and resumed since then. Both
are written by the store's own clock, so that it doesn't matter which process measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import RolloutRecord


@dataclass(frozen=True, slots=True)
class StageTime:
    """When a stage began, and how long it has run.

    Attributes:
        since_s: when it began, in Unix seconds of the store's clock; before its first stage, when the rollout started.
        ran_s: seconds since then, without those for which it was paused.
        resumed_s: when it was last resumed, or else began.
    """

    since_s: float
    ran_s: float
    resumed_s: float


def measure_stage(record: RolloutRecord, events: Iterable[RolloutEvent], now_s: float) -> StageTime:
    """Return how long a rollout's present stage has run.

    A pause whose beginning isn't among the events any more counts as time of the stage.

    Args:
        record: the rollout.
        events: what happened to it, oldest first; those of other rollouts and stages are left out.
        now_s: the time by the store's clock, in Unix seconds.
    """
    own = [event for event in events if event.record.id == record.id]
    since_s = record.since_us / 1e6 if record.since_us else own[0].at if own else now_s
    resumed_s, paused_s, paused_at = since_s, 0.0, None
    for event in own:
        if (event.record.stage, event.record.since_us) != (record.stage, record.since_us):
            continue
        if event.kind == "paused":
            paused_at = max(event.at, since_s)
        elif event.kind == "resumed" and paused_at is not None:
            resumed_s = max(event.at, since_s)
            paused_s, paused_at = paused_s + resumed_s - paused_at, None
    if paused_at is not None:
        paused_s += max(0.0, now_s - paused_at)
    return StageTime(since_s, max(0.0, now_s - since_s - paused_s), resumed_s)
