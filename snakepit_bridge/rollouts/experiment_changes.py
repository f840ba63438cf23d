"""Changes of the experiments that run on a target, and the events of these changes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from snakepit_bridge.exceptions import ExperimentError, ExperimentNotFoundError, RolloutOverlapError
from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.experiments import (
    Experiment,
    ExperimentPlan,
    ExperimentState,
    encode_experiments,
)
from snakepit_bridge.variables.codec import encode_canonical, parse

MAX_EXPERIMENTS = 20
"""Experiments that run on one target at the same time."""

MAX_EXPERIMENTS_BYTES = 64 * 1024
"""Bytes of all their text together, which each request of the target has read."""

ExperimentEventKind = Literal["started", "decided", "stopped"]
"""What happened to an experiment."""


@dataclass(frozen=True, slots=True)
class ExperimentEvent:
    """The start or the end of an experiment.

    Attributes:
        kind: what happened.
        experiment: as it was after it.
        author: who caused it.
        reason: why.
        at: when, in Unix seconds by the store's clock; 0 before it is stored.
        position: its place among the target's events; empty before it is stored.
    """

    kind: ExperimentEventKind
    experiment: Experiment
    author: str = ""
    reason: str = ""
    at: float = 0.0
    position: str = ""

    def encode_experiment(self) -> str:
        """Return the JSON text of the experiment."""
        return encode_canonical(self.experiment.encode()).decode()

    @classmethod
    def decode(cls, position: bytes, fields: Mapping[bytes, bytes]) -> Self:
        """Return the event of a stream's entry."""
        text = {name.decode(): value.decode() for name, value in fields.items()}
        kind: Any = text["kind"]
        experiment = Experiment.model_validate(parse(text["experiment"]))
        return cls(kind, experiment, text["author"], text["reason"], int(text["at"]) / 1e6, position.decode())


def encode_experiment_change(before: str, after: str, event: ExperimentEvent) -> dict[str, Any]:
    """Return a change of the experiments of a target as JSON values: their text before and after it, and its event."""
    return {"before": before, "after": after, "kind": event.kind, "experiment": event.encode_experiment()}


def decode_experiment_event(change: Mapping[str, Any], author: str, reason: str) -> ExperimentEvent:
    """Return the event of a change of experiments, as ``encode_experiment_change`` has it."""
    experiment = Experiment.model_validate(parse(change["experiment"]))
    return ExperimentEvent(change["kind"], experiment, author, reason)


def start_experiment(plan: ExperimentPlan) -> Experiment:
    """Return a new experiment by a plan, with an id of its own."""
    return Experiment.model_validate(plan.encode() | {"id": uuid.uuid4().hex})


def add_experiment(running: Sequence[Experiment], experiment: Experiment, target: str) -> tuple[Experiment, ...]:
    """Return the running experiments of a target with a new one.

    Args:
        running: those that run already.
        experiment: the new one.
        target: for errors.

    Raises:
        RolloutOverlapError: another one takes part of its range, or has its name.
        ExperimentError: too many run already, or their text gets too large.
    """
    for other in running:
        if other.name == experiment.name:
            raise RolloutOverlapError(target, f"experiment '{other.name}'", "Give this one another name.")
        if other.from_share < experiment.to_share and experiment.from_share < other.to_share:
            overlapped = (
                f"experiment '{other.name}' on the requests from {_describe_range(other.from_share, other.to_share)}"
            )
            raise RolloutOverlapError(target, overlapped, _suggest_range(running))
    if len(running) >= MAX_EXPERIMENTS:
        raise ExperimentError(experiment.name, "its start", f"{len(running)} run on {target}, which is the maximum")
    changed = (*running, experiment)
    size = len(encode_experiments(changed).encode())
    if size > MAX_EXPERIMENTS_BYTES:
        problem = f"with it those of {target} have {size} bytes, the maximum is {MAX_EXPERIMENTS_BYTES}"
        raise ExperimentError(experiment.name, "its size", problem)
    return changed


def _suggest_range(running: Sequence[Experiment]) -> str:
    """Return what another experiment can do that is to run beside others."""
    free: list[tuple[int, int]] = []
    begin = 0
    for each in sorted(running, key=lambda each: each.from_share):
        free += [(begin, each.from_share)] if begin < each.from_share else []
        begin = max(begin, each.to_share)
    free += [(begin, MILLION)] if begin < MILLION else []
    if not free:
        return "No requests are free: end an experiment by 'dspex-fleet experiment stop'."
    first, last = free[0]
    ranges = " and ".join(_describe_range(*each) for each in free)
    return f"Free is {ranges}, such as --from {first / MILLION:g} --share {(last - first) / MILLION:g}."


def _describe_range(first: int, last: int) -> str:
    return f"{first / MILLION:g} to {last / MILLION:g}"


def end_experiment(
    running: Sequence[Experiment], name: str, target: str, *, winner: str = ""
) -> tuple[tuple[Experiment, ...], Experiment]:
    """Return the running experiments of a target without one of them, and that one as it has ended.

    Args:
        running: those that run.
        name: of the one that ends.
        target: for errors.
        winner: the arm that was decided for; empty if it is stopped without a decision.

    Raises:
        ExperimentNotFoundError: it doesn't run.
        ExperimentError: it has no such arm.
    """
    for experiment in running:
        if experiment.name == name:
            state = ExperimentState.DECIDED if winner else ExperimentState.STOPPED
            if winner:
                experiment.arm(winner)
            ended = experiment.model_copy(update={"state": state, "winner": winner})
            return tuple(each for each in running if each is not experiment), ended
    raise ExperimentNotFoundError(target, name, [experiment.name for experiment in running])
