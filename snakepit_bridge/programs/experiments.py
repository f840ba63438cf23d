"""Experiments with versions of a program, on the requests for one of its labels.

Those that run are stored next to the label, in the program's hash, so that a request reads them with it.
"""

from __future__ import annotations

import uuid
from typing import Any

from typing_extensions import override

from snakepit_bridge.exceptions import ExperimentError, ProgramNotFoundError, RolloutMovedError, RolloutOverlapError
from snakepit_bridge.programs.controlled import describe_experiment, raise_if_refused
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.staging import parse_label_experiments, rollout_target, to_arm, to_entry
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.target_experiments import TargetExperiments

_SCRIPTS = ScriptPackage("snakepit_bridge.programs")


class LabelExperiments(TargetExperiments):
    """The experiments on a program's label.

    Args:
        registry: the programs.
        name: of the program.
        label: the label, which has to exist when one starts.
    """

    def __init__(self, registry: ProgramRegistry, name: str, label: str) -> None:
        super().__init__(rollout_target(name, label))
        self._registry, self._name, self._label = registry, name, label
        self._versions = registry.keys.program_versions(name)
        self._rollouts = registry.keys.program_rollouts(name, label)
        self._events = registry.keys.program_experiments(name, label)

    @override
    async def events(self, after: str = "", limit: int = 100) -> list[ExperimentEvent]:
        begin = f"({after}" if after else "-"
        script = _SCRIPTS["staging_events"]
        entries: Any = await self._registry.connection.run(script, [self._events], [begin, limit])
        return [
            ExperimentEvent.decode(position, dict(zip(fields[::2], fields[1::2], strict=True)))
            for position, fields in entries
        ]

    @override
    async def _load(self) -> str:
        field = f"experiments:{self._label}"
        text = await self._registry.connection.execute_read("HGET", self._versions, field) or b""
        parse_label_experiments(self._name, text)
        return text.decode()

    @override
    async def _locate(self, experiment: str, where: str, revision: str) -> str:
        await self._registry.get(f"{self._name}@{self._label}")
        try:
            program = await self._registry.get(f"{self._name}:{revision}")
        except ProgramNotFoundError as exc:
            raise ExperimentError(experiment, where, str(exc)) from None
        return to_arm(program.version, program.digest)

    @override
    async def _replace(self, before: str, after: str, event: ExperimentEvent) -> None:
        await self.replace_approved(before, after, event)

    async def replace_approved(self, before: str, after: str, event: ExperimentEvent, approval: str = "") -> None:
        """Replace the stored text, and give everybody the winner's version if there is one.

        Args:
            before: the text that there has to be.
            after: the new one.
            event: what happens.
            approval: the id of the request for it that was approved.

        Raises:
            RolloutMovedError: the stored text isn't ``before``.
            RolloutOverlapError: one is to start, and the label has an open rollout.
            ApprovalRequiredError: a rule protects the label, and one isn't just to stop.
        """
        winner = event.experiment.winner
        entry = to_entry(event.experiment.arm(winner).revision) if winner else ""
        change = uuid.uuid4().hex, event.kind, event.encode_experiment(), event.author, event.reason
        keys = [self._versions, self._rollouts, self._events]
        tail = (event.experiment.name, *self._registry.trail.build_args(self.target, approval))
        args = [self._label, before, after, entry, *change, *tail]

        async def replace() -> None:
            reply: list[bytes] = await self._registry.connection.run(_SCRIPTS["change_experiments"], keys, args)
            raise_if_refused(reply, approval)
            if reply[0] == b"overlap":
                raise RolloutOverlapError(self.target, f"rollout {reply[1].decode().partition(' ')[0]}")
            if reply[0] == b"moved":
                raise RolloutMovedError(self.target, "the experiments that were read", "others")

        described = describe_experiment(self._name, self._label, before, after, event, approval)
        await self._registry.control.carry_out(
            described, replace, lambda: self._registry.read_label(self._name, self._label)
        )
