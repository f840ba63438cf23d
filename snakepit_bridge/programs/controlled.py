"""The changes of programs' labels, as change control has them: what is recorded, which rules apply, what waits."""

from __future__ import annotations

from collections.abc import Sequence

from snakepit_bridge.audit.change_control import ControlledChange, raise_if_protected
from snakepit_bridge.audit.protections import ProtectionKind
from snakepit_bridge.exceptions import ApprovalNotFoundError
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent, encode_experiment_change
from snakepit_bridge.rollouts.records import RolloutRecord


def describe_label_move(
    name: str, label: str, version: int, author: str, reason: str, expected: str, approval: str
) -> ControlledChange:
    """Return a move of a label to a version."""
    return ControlledChange(
        "label", f"program:{name}@{label}", author, reason,
        ProtectionKind.LABEL, (label, f"{name}@{label}"), expected,
        lambda: {"version": version}, approval=approval,
    )  # fmt: skip


def describe_rollout_start(
    name: str, label: str, record: RolloutRecord, policy: str, author: str, reason: str, approval: str
) -> ControlledChange:
    """Return the start of a rollout to a label, after which its steps need no approval."""
    return ControlledChange(
        "rollout.started", f"program:{name}@{label}", author, reason,
        ProtectionKind.LABEL, (label, f"{name}@{label}"), record.baseline.partition(":")[0],
        lambda: {"version": int(record.candidate.partition(":")[0]), "policy": policy}, approval=approval,
    )  # fmt: skip


def describe_rollout_step(name: str, label: str, event: RolloutEvent) -> ControlledChange:
    """Return a step of a rollout to a label."""
    return ControlledChange(f"rollout.{event.kind}", f"program:{name}@{label}", event.author, event.reason)


def describe_experiment(
    name: str, label: str, before: str, after: str, event: ExperimentEvent, approval: str
) -> ControlledChange:
    """Return the start or the end of an experiment; whoever stops one gives everybody what the label stands for."""
    return ControlledChange(
        f"experiment.{event.kind}", f"program:{name}@{label}", event.author, event.reason,
        None if event.kind == "stopped" else ProtectionKind.LABEL, (label, f"{name}@{label}"),
        build_arguments=lambda: encode_experiment_change(before, after, event),
        changed=(event.experiment.name,), approval=approval,
    )  # fmt: skip


def raise_if_refused(reply: Sequence[bytes], approval: str) -> None:
    """Raise the error of a script that met a rule, or missed an approval.

    Args:
        reply: of the script.
        approval: that the change claimed.

    Raises:
        TargetProtectedError: a rule protects what was to be changed.
        ApprovalNotFoundError: the request is gone, or lacks approvals.
    """
    if reply[0] == b"unapproved":
        raise ApprovalNotFoundError(approval)
    raise_if_protected(reply)
