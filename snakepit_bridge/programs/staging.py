"""Which version of a program a label stands for, while it is staged: by the fields of the program's hash alone.

A version is written ``3 DIGEST`` in the hash, and ``3:DIGEST`` in the record of a rollout, whose fields are separated
by spaces.
"""

from __future__ import annotations

import re

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.rollouts.records import CANDIDATE, ArmAssignment, RolloutRecord, assign

_ENTRY = re.compile(rb"(\d{1,15}) ([0-9a-f]{64})")


def rollout_target(name: str, label: str) -> str:
    """Return what a label is called as the target of a rollout."""
    return f"program:{name}@{label}"


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


def to_entry(version: str) -> str:
    """Return the entry of the program's hash for a version as a record has it."""
    return version.replace(":", " ")


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


def assign_entry(
    name: str, label: str, entry: bytes, record: RolloutRecord, key: str, now_s: float
) -> tuple[bytes, ArmAssignment | None]:
    """Return the entry of the version that a request gets, and its arm while the rollout is undecided.

    Args:
        name, label: what is staged.
        entry: what the label points at, which is the baseline.
        record: of the label's rollout.
        key: the request's targeting key.
        now_s: the time in Unix seconds.

    Raises:
        ValueError: the key is too long.
    """
    if not record.is_open:
        return entry, None
    assignment = assign(record, key, now_s, rollout_target(name, label))
    return (to_entry(record.candidate).encode() if assignment.arm == CANDIDATE else entry), assignment
