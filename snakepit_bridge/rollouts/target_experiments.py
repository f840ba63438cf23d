"""The experiments of one target, wherever it stores them: each change replaces the text that it was made on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snakepit_bridge.exceptions import ExperimentNotFoundError, RolloutMovedError
from snakepit_bridge.rollouts.experiment_changes import (
    ExperimentEvent,
    ExperimentEventKind,
    add_experiment,
    end_experiment,
    start_experiment,
)
from snakepit_bridge.rollouts.experiments import Experiment, ExperimentPlan, encode_experiments, parse_experiments

# People change experiments, so more than a few changes at the same time are no accident.
_ATTEMPTS = 20

Change = Callable[[Sequence[Experiment]], tuple[Sequence[Experiment], Experiment]]
"""Returns the experiments after a change, and the one that was changed."""


class TargetExperiments(ABC):
    """The experiments of one target.

    Args:
        target: ``session:NAME`` or ``program:NAME@LABEL``.
    """

    def __init__(self, target: str) -> None:
        self.target = target

    async def start(self, plan: str | Mapping[str, Any], *, author: str = "", reason: str = "") -> Experiment:
        """Start an experiment.

        Args:
            plan: see ``rollouts/experiments.py``; the revision of an arm is the number of a program's version, or a
                token or label of a session.
            author, reason: of the event.

        Raises:
            ExperimentError: the plan is invalid, or a revision of it doesn't exist.
            RolloutOverlapError: the target has an open rollout, or another experiment that the plan would overlap.
            BridgeError: the target can't be read.
        """
        parsed = ExperimentPlan.parse(plan)
        fields = parsed.encode()
        for number, arm in enumerate(fields["arms"]):
            arm["revision"] = await self._locate(parsed.name, f"arms[{number}].revision", arm["revision"])
        experiment = start_experiment(ExperimentPlan.model_validate(fields))

        def add(running: Sequence[Experiment]) -> tuple[Sequence[Experiment], Experiment]:
            return add_experiment(running, experiment, self.target), experiment

        return await self._change("started", add, author, reason)

    async def decide(self, experiment: str, arm: str, *, author: str = "", reason: str = "") -> Experiment:
        """End an experiment, and give everybody the revision of one of its arms.

        Args:
            experiment: its name.
            arm: the arm's name.
            author, reason: of the event.

        Raises:
            ExperimentNotFoundError: it doesn't run.
            ExperimentError: it has no such arm.
            BridgeError: the target can't be changed.
        """

        def decide(running: Sequence[Experiment]) -> tuple[Sequence[Experiment], Experiment]:
            return end_experiment(running, experiment, self.target, winner=arm)

        return await self._change("decided", decide, author, reason)

    async def stop(self, experiment: str, *, author: str = "", reason: str = "") -> Experiment:
        """End an experiment without a decision; everybody gets what the target stands for.

        Args:
            experiment: its name.
            author, reason: of the event.

        Raises:
            ExperimentNotFoundError: it doesn't run.
            BridgeError: the target can't be changed.
        """

        def stop(running: Sequence[Experiment]) -> tuple[Sequence[Experiment], Experiment]:
            return end_experiment(running, experiment, self.target)

        return await self._change("stopped", stop, author, reason)

    async def list(self) -> tuple[Experiment, ...]:
        """Return the experiments that run.

        Raises:
            BridgeError: the target can't be read.
        """
        return parse_experiments(await self._load())

    @abstractmethod
    async def events(self, after: str = "", limit: int = 100) -> list[ExperimentEvent]:
        """Return what has happened to the target's experiments, oldest first.

        Args:
            after: the position of the last known event; empty for all.
            limit: how many at most.

        Raises:
            BridgeError: the target can't be read.
        """

    @abstractmethod
    async def _load(self) -> str:
        """Return the stored text of the experiments that run, which can be parsed."""

    @abstractmethod
    async def _locate(self, experiment: str, where: str, revision: str) -> str:
        """Return the form in which an arm's revision is stored, once it was read.

        Raises:
            ExperimentError: there is no such revision; it names the experiment and where in its plan that is.
        """

    @abstractmethod
    async def _replace(self, before: str, after: str, event: ExperimentEvent) -> None:
        """Replace the stored text, and give everybody the winner's revision if there is one.

        Raises:
            RolloutMovedError: the stored text isn't ``before``.
            RolloutOverlapError: one is to start, and the target has an open rollout.
        """

    async def _change(self, kind: ExperimentEventKind, change: Change, author: str, reason: str) -> Experiment:
        for attempt in range(1, _ATTEMPTS + 1):
            text = await self._load()
            try:
                changed, experiment = change(parse_experiments(text))
            except ExperimentNotFoundError as exc:
                raise ExperimentNotFoundError(
                    exc.target, exc.experiment, exc.available, await self._find_end(exc.experiment)
                ) from None
            try:
                await self._replace(
                    text, encode_experiments(changed), ExperimentEvent(kind, experiment, author, reason)
                )
            except RolloutMovedError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return experiment
        raise AssertionError("the last attempt returns or raises")

    async def _find_end(self, name: str) -> str:
        """Return how the last experiment of a name ended; empty if there was none."""
        found, after = "", ""
        while newer := await self.events(after):
            after = newer[-1].position
            for event in newer:
                if event.experiment.name == name and event.kind != "started":
                    found = event.kind + (f" for '{event.experiment.winner}'" if event.experiment.winner else "")
        return found
