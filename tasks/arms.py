"""Which arm of its session's rollout or experiment a request runs under.

The record of the rollout has come with the snapshot, so that this needs no round trip. A process that is behind assigns
by the stage that it knows; one that has followed the session within its lease knows each stage before it begins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from snakepit_bridge.protocol.messages import PredictionRequest, Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.experiments import assign_experiment, find_arm, parse_experiments
from snakepit_bridge.rollouts.records import CANDIDATE, ArmAssignment, RolloutState, assign
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.subject import current_subject

_MEASURED = (RolloutState.RUNNING, RolloutState.PAUSED)


def choose_revision(
    newest: Snapshot, request: PredictionRequest, key: str, now_s: float
) -> tuple[Snapshot, ArmAssignment | None]:
    """Return the snapshot that a request runs under, and the arm that it is counted for; None if for none.

    Only requests for the latest revision are assigned. One for at least some token gets the baseline where that is
    enough.

    Args:
        newest: the session's newest snapshot that meets the requirement.
        request: the request.
        key: what it is assigned by; without one it gets the baseline.
        now_s: the store's time in Unix seconds.
    """
    record, baseline, required = newest.rollout, newest.baseline, request.requirement
    if record is None or baseline is None or not record.is_staged or required.kind == "exactly":
        return newest, None
    if required.token is not None:
        return (baseline if required.token <= baseline.token else newest), None
    if not key:
        return baseline, None
    arm = assign(record, key, now_s, f"session:{newest.session}")
    is_measured = record.state in _MEASURED and arm.stage > 0
    return newest if arm.arm == CANDIDATE else baseline, arm if is_measured else None


def choose_experiment_arm(newest: Snapshot, request: PredictionRequest, key: str) -> tuple[Token, ArmAssignment] | None:
    """Return the revision that a request gets in an experiment, and its arm; None if it takes part in none.

    Arguments as of :func:`choose_revision`.
    """
    if not newest.experiments or not key or request.requirement.kind != "latest":
        return None
    experiments = parse_experiments(newest.experiments)
    arm = assign_experiment(experiments, key, request.attributes or {}, f"session:{newest.session}")
    return None if arm is None else (Token.parse(find_arm(experiments, arm).revision), arm)


async def assign_snapshot(
    replica: Replica, newest: Snapshot, request: PredictionRequest, key: str
) -> tuple[Snapshot, ArmAssignment | None]:
    """Return the snapshot that a request runs under, and the arm that it is counted for; None if for none.

    That of an experiment's arm is read once and cached; all others have come with the newest one.

    Args:
        replica: the process's snapshots.
        newest: the session's newest snapshot that meets the requirement.
        request: the request.
        key: what it is assigned by; without one it gets the baseline.

    Raises:
        BridgeError: an arm's snapshot can't be read, as ``Replica.snapshot`` says.
    """
    found = choose_experiment_arm(newest, request, key)
    if found is None:
        return choose_revision(newest, request, key, replica.store_time())
    return await replica.snapshot(newest.session, Requirement("exactly", found[0])), found[1]


def encode_arms(arms: Sequence[ArmAssignment]) -> str:
    """Return the JSON text of arms."""
    return json.dumps([arm.encode() for arm in arms])


def decode_arms(text: bytes | None) -> tuple[ArmAssignment, ...]:
    """Return the arms of a JSON text; none for no text."""
    return tuple(ArmAssignment(**arm) for arm in json.loads(text)) if text else ()


def record_arms(*arms: ArmAssignment | None) -> tuple[ArmAssignment, ...]:
    """Record what the current prediction is assigned to, for the counts of its end, and return it."""
    assigned = tuple(arm for arm in arms if arm is not None)
    subject = current_subject.get()
    if subject is not None:
        subject.arms = assigned
    return assigned
