"""Experiments with versions of a program, on the requests for one of its labels.

Those that run are stored next to the label, in the program's hash, so that a request reads them with it. Each change
compares their text and replaces it in one script.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snakepit_bridge.exceptions import ExperimentError, ProgramNotFoundError, RolloutMovedError, RolloutOverlapError
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.staging import parse_label_experiments, rollout_target, to_arm, to_entry
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.rollouts.experiment_changes import (
    ExperimentEvent,
    ExperimentEventKind,
    add_experiment,
    end_experiment,
    start_experiment,
)
from snakepit_bridge.rollouts.experiments import Experiment, ExperimentPlan, encode_experiments

_SCRIPTS = ScriptPackage("snakepit_bridge.programs")
# People change experiments, so more than a few changes at the same time are no accident.
_ATTEMPTS = 20

Change = Callable[[Sequence[Experiment]], tuple[Sequence[Experiment], Experiment]]
"""Returns the experiments after a change, and the one that was changed."""


class ProgramExperiments:
    """The experiments of the programs of one registry.

    Args:
        registry: the programs.
    """

    def __init__(self, registry: ProgramRegistry) -> None:
        self._registry = registry
        self._connection, self._keys = registry.connection, registry.keys

    async def start(
        self, name: str, label: str, plan: str | Mapping[str, Any], *, author: str = "", reason: str = ""
    ) -> Experiment:
        """Start an experiment on the requests for a label.

        Args:
            name, label: the target.
            plan: see ``rollouts/experiments.py``; the revision of an arm is the number of a version.
            author, reason: of the event.

        Raises:
            ExperimentError: the plan is invalid, or one of its versions isn't registered.
            ProgramNotFoundError: there is no such program or label.
            ProgramSpecError: a version can't be read.
            RolloutOverlapError: the label has an open rollout, or another experiment that the plan would overlap.
            StoreUnavailableError: Redis can't be reached.
        """
        await self._registry.get(f"{name}@{label}")
        experiment = start_experiment(await self._locate(name, ExperimentPlan.parse(plan)))
        target = rollout_target(name, label)

        def add(running: Sequence[Experiment]) -> tuple[Sequence[Experiment], Experiment]:
            return add_experiment(running, experiment, target), experiment

        return await self._change(name, label, "started", add, author, reason)

    async def decide(
        self, name: str, label: str, experiment: str, arm: str, *, author: str = "", reason: str = ""
    ) -> Experiment:
        """End an experiment, and move the label to the version of one of its arms.

        Raises:
            ExperimentNotFoundError: it doesn't run.
            ExperimentError: it has no such arm.
            StoreUnavailableError: Redis can't be reached.
        """
        target = rollout_target(name, label)

        def decide(running: Sequence[Experiment]) -> tuple[Sequence[Experiment], Experiment]:
            return end_experiment(running, experiment, target, winner=arm)

        return await self._change(name, label, "decided", decide, author, reason)

    async def stop(self, name: str, label: str, experiment: str, *, author: str = "", reason: str = "") -> Experiment:
        """End an experiment without a decision; the label stays where it is.

        Raises:
            ExperimentNotFoundError: it doesn't run.
            StoreUnavailableError: Redis can't be reached.
        """
        target = rollout_target(name, label)

        def stop(running: Sequence[Experiment]) -> tuple[Sequence[Experiment], Experiment]:
            return end_experiment(running, experiment, target)

        return await self._change(name, label, "stopped", stop, author, reason)

    async def read(self, name: str, label: str) -> tuple[Experiment, ...]:
        """Return the experiments that run on a label.

        Raises:
            ProgramSpecError: Redis holds something else there.
            StoreUnavailableError: Redis can't be reached.
        """
        return parse_label_experiments(name, await self._read_text(name, label))

    async def events(self, name: str, label: str, after: str = "", limit: int = 100) -> list[ExperimentEvent]:
        """Return what has happened to a label's experiments, oldest first.

        Args:
            name, label: the target.
            after: the position of the last known event; empty for all.
            limit: how many at most.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        keys = [self._keys.program_experiments(name, label)]
        begin = f"({after}" if after else "-"
        entries: Any = await self._connection.run(_SCRIPTS["staging_events"], keys, [begin, limit])
        return [
            ExperimentEvent.decode(position, dict(zip(fields[::2], fields[1::2], strict=True)))
            for position, fields in entries
        ]

    async def _locate(self, name: str, plan: ExperimentPlan) -> ExperimentPlan:
        """Return a plan whose revisions are versions with their digests, each of which was read."""
        fields = plan.encode()
        for number, arm in enumerate(fields["arms"]):
            try:
                program = await self._registry.get(f"{name}:{arm['revision']}")
            except ProgramNotFoundError as exc:
                raise ExperimentError(plan.name, f"arms[{number}].revision", str(exc)) from None
            arm["revision"] = to_arm(program.version, program.digest)
        return ExperimentPlan.model_validate(fields)

    async def _change(
        self, name: str, label: str, kind: ExperimentEventKind, change: Change, author: str, reason: str
    ) -> Experiment:
        target, text = rollout_target(name, label), b""
        for _ in range(_ATTEMPTS):
            text = await self._read_text(name, label)
            changed, experiment = change(parse_label_experiments(name, text))
            entry = to_entry(experiment.arm(experiment.winner).revision) if experiment.winner else ""
            event = ExperimentEvent(kind, experiment, author, reason)
            reply = await self._replace(name, label, text, encode_experiments(changed), entry, event)
            if reply[0] == b"changed":
                return experiment
            if reply[0] == b"overlap":
                raise RolloutOverlapError(target, f"rollout {reply[1].decode().partition(' ')[0]}")
        raise RolloutMovedError(target, text.decode()[:80], "others, at each attempt")

    async def _replace(
        self, name: str, label: str, text: bytes, changed: str, entry: str, event: ExperimentEvent
    ) -> list[bytes]:
        keys = [
            self._keys.program_versions(name),
            self._keys.program_rollouts(name, label),
            self._keys.program_experiments(name, label),
        ]
        change = uuid.uuid4().hex, event.kind, event.encode_experiment(), event.author, event.reason
        return await self._connection.run(_SCRIPTS["change_experiments"], keys, [label, text, changed, entry, *change])

    async def _read_text(self, name: str, label: str) -> bytes:
        fields = self._keys.program_versions(name), f"experiments:{label}"
        return await self._connection.execute_read("HGET", *fields) or b""
