"""What commands say of a target that is staged: its two arms, and which is which."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable


def describe_arms(target: str, record: RolloutRecord) -> str:
    """Return in one sentence who gets which arm of a target."""
    baseline, candidate = name_arm(record.baseline), name_arm(record.candidate)
    if record.state is RolloutState.PROMOTED:
        return f"{target} was promoted: everybody gets {candidate}"
    if record.state is RolloutState.ROLLED_BACK:
        return f"{target} was rolled back: everybody gets the baseline {baseline}, and nobody {candidate}"
    stage = f", stage {record.stage}" if record.stage else ""
    return (
        f"{target} has two arms ({record.state.value}{stage}): {format_share(record.share)} get the candidate "
        f"{candidate}, the others the baseline {baseline}"
    )


def describe_differences(snapshot: Snapshot) -> dict[str, Variable | None]:
    """Return the variables of a staged session's baseline that differ from the candidate's; None for a missing one."""
    if snapshot.baseline is None:
        return {}
    return {name: baseline for name, (baseline, _) in snapshot.diff(snapshot.baseline).items()}


def record_fields(record: RolloutRecord | None) -> dict[str, Any] | None:
    """Return a record that stages something as JSON values; None for any other."""
    return None if record is None or not record.is_staged else record.as_dict()


def format_share(share: int) -> str:
    """Return a share in millionths as a percentage."""
    return f"{100 * share / MILLION:g} %"


def name_arm(name: str) -> str:
    """Return a token as it is, and a program's version without its digest."""
    return f"version {name.partition(':')[0]}" if ":" in name else name
