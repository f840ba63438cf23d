"""Which version of a program a label stands for, while it is staged: by the fields of the program's hash alone.

A version is written ``3 DIGEST`` in the hash, and ``3:DIGEST`` in the record of a rollout, whose fields are separated
by spaces, and in experiments.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.protocol.targeting import Attributes
from snakepit_bridge.rollouts.experiments import Experiment, assign_experiment, find_arm, parse_experiments
from snakepit_bridge.rollouts.records import CANDIDATE, ArmAssignment, RolloutRecord, assign

_ENTRY = re.compile(rb"(\d{1,15}) ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class StagedLabel:
    """A label as it was read.

    Attributes:
        name, label: the target.
        entry: the version that it points at, as in the hash.
        record: of its rollout, as stored; None for none.
        experiments: those that run on it, as stored; None for none.
    """

    name: str
    label: str
    entry: bytes
    record: bytes | None = None
    experiments: bytes | None = None

    def assign(self, key: str, attributes: Attributes, now_s: float) -> tuple[bytes, ArmAssignment | None]:
        """Return the entry of the version that a request gets, and its arm if it is part of what runs.

        Args:
            key: the request's targeting key.
            attributes: the request's, for the segments of experiments.
            now_s: the time in Unix seconds.

        Raises:
            ProgramSpecError: the record or the experiments are something else.
            ValueError: the key is too long.
        """
        target = rollout_target(self.name, self.label)
        if self.record is not None:
            record = parse_record(self.name, self.record)
            if record.is_open and record.stage:
                assignment = assign(record, key, now_s, target)
                return (to_entry(record.candidate).encode() if assignment.arm == CANDIDATE else self.entry), assignment
        if self.experiments is not None:
            experiments = parse_label_experiments(self.name, self.experiments)
            assignment = assign_experiment(experiments, key, attributes, target)
            if assignment is not None:
                return to_entry(find_arm(experiments, assignment).revision).encode(), assignment
        return self.entry, None


def rollout_target(name: str, label: str) -> str:
    """Return what a label is called as the target of a rollout or an experiment."""
    return f"program:{name}@{label}"


@functools.lru_cache(maxsize=1024)
def parse_entry(name: str, entry: bytes | str) -> tuple[int, str]:
    """Return the version and the digest of an entry of a program's hash.

    Raises:
        ProgramSpecError: it is something else.
    """
    # Our client doesn't decode, and redis-py's types allow both.
    match = _ENTRY.fullmatch(entry) if isinstance(entry, bytes) else None
    if match is None:
        raise ProgramSpecError(name, "its versions", "Redis holds something else there; restore that key")
    return int(match[1]), match[2].decode()


def to_arm(version: int, digest: str) -> str:
    """Return a version as a record or an experiment has it."""
    return f"{version}:{digest}"


def to_entry(arm: str) -> str:
    """Return the entry of the program's hash for a version as a record or an experiment has it."""
    return arm.replace(":", " ")


def parse_record(name: str, text: bytes) -> RolloutRecord:
    """Parse the record of a rollout of a program.

    Raises:
        ProgramSpecError: it is something else.
    """
    try:
        return RolloutRecord.parse(text.decode())
    except ValueError:
        raise ProgramSpecError(
            name, "a label's rollout", "Redis holds something else there; restore that key"
        ) from None


def parse_label_experiments(name: str, text: bytes) -> tuple[Experiment, ...]:
    """Parse the experiments that run on a label of a program; an empty text for none.

    Raises:
        ProgramSpecError: they are something else.
    """
    try:
        return parse_experiments(text.decode())
    except (TypeError, ValueError):
        raise ProgramSpecError(
            name, "a label's experiments", "Redis holds something else there; restore that key"
        ) from None
