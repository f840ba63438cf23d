"""The report on an experiment: what was counted of each of its arms, and what that says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.exceptions import ExperimentNotFoundError
from snakepit_bridge.releases.counts import StageCountsReader
from snakepit_bridge.releases.report import arm_dict
from snakepit_bridge.rollouts.arm_comparisons import ArmComparison, compare_arms
from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.arm_figures import LEVEL, ArmFigures
from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.experiments import Experiment, ExperimentArm
from snakepit_bridge.rollouts.target_experiments import TargetExperiments

# Events of one round trip; a target keeps about as many.
_EVENTS_READ = 1_000
# Seconds after its end in which late results and scores of an experiment are still looked for.
_COUNTED_AFTER_END_S = 86_400.0


@dataclass(frozen=True, slots=True)
class ArmReport:
    """One arm of an experiment.

    Attributes:
        arm: its name, weight and revision.
        counts: what was counted of it.
        figures: what these say of it.
    """

    arm: ExperimentArm
    counts: ArmCounts = field(repr=False)
    figures: ArmFigures

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; ``figures`` has the bounds."""
        about = {"revision": self.arm.revision, "weight": self.arm.weight / MILLION}
        return {**about, **arm_dict(self.counts), "figures": self.figures.as_dict()}


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """How an experiment stands, or how it ended.

    Attributes:
        target: what is tried: ``session:NAME`` or ``program:NAME@LABEL``.
        experiment: its arms, its part of the requests, and the winner if it was decided.
        arms: a report on each arm, in the experiment's order.
        events: what has happened to it, oldest first.
    """

    target: str
    experiment: Experiment
    arms: tuple[ArmReport, ...] = field(repr=False)
    events: tuple[ExperimentEvent, ...] = field(repr=False)

    @property
    def comparisons(self) -> tuple[ArmComparison, ...]:
        """What is known of each metric that has values: which arm is best, or what that still needs."""
        return compare_arms({each.arm.name: each.figures for each in self.arms})

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "target": self.target,
            "experiment": self.experiment.encode(),
            "level": LEVEL,
            "arms": {report.arm.name: report.as_dict() for report in self.arms},
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
            "events": [experiment_event_dict(event) for event in self.events],
        }


def experiment_event_dict(event: ExperimentEvent) -> dict[str, Any]:
    """Return an event as JSON values."""
    about = {"kind": event.kind, "at": event.at, "author": event.author, "reason": event.reason}
    return {**about, "experiment": event.experiment.encode(), "position": event.position}


async def read_experiment_report(
    target: TargetExperiments, name: str, reader: StageCountsReader, now_s: float
) -> ExperimentReport:
    """Return the report on the experiment of a name that runs on a target, or on the one that ended last.

    Args:
        target: what is tried.
        name: of the experiment; or its id, where a later one has its name.
        reader: reads what was counted.
        now_s: the time by the store's clock, in Unix seconds.

    Raises:
        ExperimentNotFoundError: the target's history has none of this name.
        BridgeError: the target can't be read.
    """
    running = await target.list()
    named = [event for event in await _read_events(target) if name in (event.experiment.name, event.experiment.id)]
    found = next((each for each in running if name in (each.name, each.id)), named[-1].experiment if named else None)
    if found is None:
        raise ExperimentNotFoundError(target.target, name, [each.name for each in running])
    events = tuple(event for event in named if event.experiment.id == found.id)
    began_s = events[0].at if events and events[0].kind == "started" else 0.0
    until_s = events[-1].at + _COUNTED_AFTER_END_S if events and events[-1].kind != "started" else now_s
    counts = await reader.read_arms(found.id, [arm.name for arm in found.arms], began_s, min(now_s, until_s))
    return ExperimentReport(target.target, found, _report_arms(found, counts), events)


def _report_arms(experiment: Experiment, counts: dict[str, ArmCounts]) -> tuple[ArmReport, ...]:
    # The bounds of all arms hold together.
    alpha = LEVEL / len(experiment.arms)
    return tuple(
        ArmReport(arm, counts[arm.name], ArmFigures.measure(counts[arm.name], alpha)) for arm in experiment.arms
    )


async def _read_events(target: TargetExperiments) -> Sequence[ExperimentEvent]:
    events: list[ExperimentEvent] = []
    while newer := await target.events(events[-1].position if events else "", _EVENTS_READ):
        events += newer
    return events
