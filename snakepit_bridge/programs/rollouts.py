"""Rollouts of program versions: a label moves from one version to another by stages, and back if that does harm.

The record lives next to the label, in the program's hash. Each change of it is one script, which refuses what was
decided on an outdated record, so that any number of processes may try.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from snakepit_bridge.exceptions import RolloutCandidateError, RolloutMovedError, RolloutOverlapError
from snakepit_bridge.programs.controlled import describe_rollout_start, describe_rollout_step, raise_if_refused
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.staging import parse_label_experiments, parse_record, rollout_target, to_arm, to_entry
from snakepit_bridge.redis.scripts import ScriptPackage
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

_SCRIPTS = ScriptPackage("snakepit_bridge.programs")


@dataclass(frozen=True, slots=True)
class LabelRollout:
    """The rollout of a label, as it was at one moment.

    Attributes:
        record: how far it is.
        policy: its policy, as JSON text.
        now_s: the time of that moment by the server's clock, in Unix seconds.
    """

    record: RolloutRecord
    policy: str
    now_s: float


class ProgramRollouts:
    """The rollouts of the programs of one registry.

    Args:
        registry: the programs.
    """

    def __init__(self, registry: ProgramRegistry) -> None:
        self._registry = registry
        self._connection, self._keys = registry.connection, registry.keys

    async def start(
        self,
        name: str,
        label: str,
        version: int,
        policy: str,
        *,
        author: str = "",
        reason: str = "",
        approval: str = "",
    ) -> RolloutRecord:
        """Start the rollout of a version to a label; its first stage begins by a step.

        Args:
            name, label: what is staged.
            version: the candidate.
            policy: JSON text, which the caller has checked.
            author, reason: of the event.
            approval: the id of the request for it that was approved.

        Raises:
            ApprovalRequiredError: a rule protects the label.
            ProgramNotFoundError: there is no such program, label or version.
            ProgramSpecError: the candidate can't be read.
            RolloutCandidateError: the label points at that version already.
            RolloutOverlapError: the label has an open rollout, or an experiment runs on it.
            RolloutMovedError: the label was moved meanwhile.
            StoreUnavailableError: Redis can't be reached.
        """
        target = rollout_target(name, label)
        baseline = await self._registry.get(f"{name}@{label}")
        # A candidate that can't be read would fail predictions before they are assigned, and so past every guard.
        candidate = await self._registry.get(f"{name}:{version}")
        if baseline.version == candidate.version:
            raise RolloutCandidateError(target, f"{name}:{version}", "the label points at it already")
        arms = to_arm(baseline.version, baseline.digest), to_arm(candidate.version, candidate.digest)
        record = RolloutRecord(uuid.uuid4().hex, 1, RolloutState.NEW, 0, 0, 0, 0, *arms)
        # A target without a rollout is harmless, a rollout without a target would never be staged: so that goes first.
        await self._connection.wait_bounded(self._connection.client.sadd(self._keys.rollouts, target))
        change = describe_rollout_start(name, label, record, policy, author, reason, approval)

        async def start() -> RolloutRecord:
            texts = (to_entry(record.baseline), str(record), policy, author, reason)
            tail = self._registry.trail.build_args(target, approval)
            reply = await self._run("start_rollout", name, label, *texts, *tail)
            raise_if_refused(reply, approval)
            _raise_if_not_started(reply, name, target, record)
            return record

        return await self._registry.control.carry_out(change, start, lambda: self._registry.read_label(name, label))

    async def step(self, name: str, label: str, before: RolloutRecord, event: RolloutEvent) -> RolloutRecord:
        """Change the record of a label's rollout and return the new one; a promotion moves the label as well.

        Args:
            name, label: what is staged.
            before: the record that the change was decided on.
            event: the change, with the new record.

        Raises:
            RolloutMovedError: the record isn't ``before`` any more.
            StoreUnavailableError: Redis can't be reached.
        """
        after = event.record
        entry = to_entry(after.candidate) if after.state is RolloutState.PROMOTED else ""
        texts = event.kind, event.author, event.reason, event.encode_detail()
        target = rollout_target(name, label)

        async def step() -> RolloutRecord:
            tail = self._registry.trail.build_args(target)
            reply = await self._run("step_rollout", name, label, str(before), str(after), entry, *texts, *tail)
            if reply[0] == b"moved":
                raise RolloutMovedError(target, str(before), reply[1].decode())
            return after

        change = describe_rollout_step(name, label, event)
        return await self._registry.control.carry_out(change, step, lambda: self._registry.read_label(name, label))

    async def require(self, name: str, label: str) -> None:
        """Check that a label points at a version.

        Raises:
            ProgramNotFoundError: there is no such program or label.
            StoreUnavailableError: Redis can't be reached.
        """
        await self._registry.get(f"{name}@{label}")

    async def read(self, name: str, label: str) -> LabelRollout | None:
        """Return the rollout of a label, also one that is decided; None if there is none.

        Raises:
            ProgramSpecError: Redis holds something else there.
            StoreUnavailableError: Redis can't be reached.
        """
        keys = [self._keys.program_versions(name)]
        record, policy, now_us = await self._connection.run(_SCRIPTS["read_rollout"], keys, [label])
        return LabelRollout(parse_record(name, record), policy.decode(), int(now_us) / 1e6) if record else None

    async def events(self, name: str, label: str, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        """Return what has happened to a label's rollouts, oldest first.

        Args:
            name, label: what was staged.
            after: the position of the last known event; empty for all.
            limit: how many at most.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        keys = [self._keys.program_rollouts(name, label)]
        entries: Any = await self._connection.run(
            _SCRIPTS["staging_events"], keys, [f"({after}" if after else "-", limit]
        )
        return [
            RolloutEvent.decode(position, dict(zip(fields[::2], fields[1::2], strict=True)))
            for position, fields in entries
        ]

    async def _run(self, script: str, name: str, label: str, *args: str) -> list[bytes]:
        keys = [self._keys.program_versions(name), self._keys.program_rollouts(name, label)]
        return await self._connection.run(_SCRIPTS[script], keys, [label, *args])


def _raise_if_not_started(reply: list[bytes], name: str, target: str, record: RolloutRecord) -> None:
    if reply[0] == b"overlap":
        raise RolloutOverlapError(target, f"rollout {reply[1].decode().partition(' ')[0]}")
    if reply[0] == b"experiments":
        running = parse_label_experiments(name, reply[1])
        raise RolloutOverlapError(target, " and ".join(f"experiment '{each.name}'" for each in running))
    if reply[0] == b"moved":
        raise RolloutMovedError(target, to_entry(record.baseline), reply[1].decode())
