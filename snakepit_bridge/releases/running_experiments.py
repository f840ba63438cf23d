"""All experiments that run in a fleet: on its sessions, and on the labels of its programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from snakepit_bridge.programs.staging import parse_label_experiments, rollout_target
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.rollouts.experiments import Experiment, parse_experiments
from snakepit_bridge.snapshots import SnapshotStore

_FIELD = b"experiments:"
# Programs of one round trip.
_BATCH_SIZE = 500


@dataclass(frozen=True, slots=True)
class RunningExperiment:
    """An experiment that runs, and on what.

    Attributes:
        target: ``session:NAME`` or ``program:NAME@LABEL``.
        experiment: the experiment.
    """

    target: str
    experiment: Experiment


async def read_running_experiments(
    connection: RedisConnection, keys: FleetKeys, store: SnapshotStore
) -> list[RunningExperiment]:
    """Return all experiments that run in a fleet, by target. It loads no programs, and so no DSPy.

    Args:
        connection: to the fleet's Redis.
        keys: the fleet's.
        store: the sessions.

    Raises:
        ProgramSpecError: Redis holds something else where a label's experiments are.
        StoreUnavailableError: Redis is away.
    """
    heads = await store.staged_sessions()
    found = [
        RunningExperiment(f"session:{session}", experiment)
        for session, head in heads.items()
        for experiment in parse_experiments(head.experiments)
    ]
    members: set[bytes] = await connection.execute_read("SMEMBERS", keys.programs)
    names = [name.decode() for name in members]
    for start in range(0, len(names), _BATCH_SIZE):
        found += await _read_labels(connection, keys, names[start : start + _BATCH_SIZE])
    return sorted(found, key=lambda each: (each.target, each.experiment.from_share))


async def _read_labels(connection: RedisConnection, keys: FleetKeys, names: Sequence[str]) -> list[RunningExperiment]:
    """Return the experiments that run on the labels of some programs."""
    found: list[RunningExperiment] = []
    replies = await connection.send_each([("HGETALL", keys.program_versions(name)) for name in names])
    for name, reply in zip(names, replies, strict=True):
        fields: Mapping[bytes, bytes] = reply
        for field, text in fields.items():
            if field.startswith(_FIELD):
                target = rollout_target(name, field.removeprefix(_FIELD).decode())
                found += [RunningExperiment(target, each) for each in parse_label_experiments(name, text)]
    return found
