"""The changes of sessions, as change control has them: what is recorded, which rules apply, what a request holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snakepit_bridge.audit.change_control import ControlledChange
from snakepit_bridge.audit.protections import ProtectionKind
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent, encode_experiment_change
from snakepit_bridge.snapshots.approved import encode_publish
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.records import STORE, Changes


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who changes a session, why, and with which approval."""

    author: str = ""
    reason: str = ""
    approval: str = ""
    publisher: str = STORE


def describe_publish(
    session: str, changes: Changes, by: Attribution, expected: Token | None, fence: int | None, *, replace: bool
) -> ControlledChange:
    """Return a publish."""
    is_own = by.publisher == STORE
    return ControlledChange(
        "publish", f"session:{session}", by.author, by.reason,
        ProtectionKind.SESSION if is_own else None, (session,), "" if expected is None else str(expected),
        lambda: encode_publish(changes, fence, replace=replace), tuple(changes), by.approval, is_own,
    )  # fmt: skip


def describe_rollback(
    session: str, to: Token, by: Attribution, expected: Token | None, fence: int | None
) -> ControlledChange:
    """Return a rollback."""
    is_own = by.publisher == STORE
    return ControlledChange(
        "rollback", f"session:{session}", by.author, by.reason,
        ProtectionKind.SESSION if is_own else None, (session,), "" if expected is None else str(expected),
        lambda: {"to": str(to), "fence": fence}, approval=by.approval, is_own=is_own,
    )  # fmt: skip


def describe_label(
    session: str, name: str, at: Token | None, by: Attribution, expected: Token | None = None
) -> ControlledChange:
    """Return a move of a label to a token, or its removal if that is None."""
    return ControlledChange(
        "unlabel" if at is None else "label", f"session:{session}@{name}", by.author, by.reason,
        ProtectionKind.LABEL, (name, f"{session}@{name}"), "" if expected is None else str(expected),
        lambda: {} if at is None else {"at": str(at)}, approval=by.approval,
    )  # fmt: skip


def describe_drop(session: str, by: Attribution) -> ControlledChange:
    """Return the deletion of a session."""
    kind, target = ProtectionKind.SESSION, f"session:{session}"
    return ControlledChange("drop_session", target, by.author, by.reason, kind, (session,), approval=by.approval)


def describe_checks(session: str, checks: Mapping[str, Check | None], by: Attribution) -> ControlledChange:
    """Return a declaration of checks."""
    is_own = by.publisher == STORE
    return ControlledChange(
        "declare_checks", f"session:{session}", by.author, by.reason, changed=tuple(checks), is_own=is_own
    )


def describe_retention(session: str, by: Attribution) -> ControlledChange:
    """Return a change of what is kept of a session."""
    return ControlledChange("retain", f"session:{session}", by.author, by.reason)


def describe_rollout_step(session: str, event: RolloutEvent) -> ControlledChange:
    """Return a step of a session's rollout, whose start was approved if that was needed."""
    return ControlledChange(f"rollout.{event.kind}", f"session:{session}", event.author, event.reason)


def describe_experiment(
    session: str, before: str, after: str, event: ExperimentEvent, approval: str
) -> ControlledChange:
    """Return the start or the end of an experiment, of which the start alone gives anybody other values."""
    return ControlledChange(
        f"experiment.{event.kind}", f"session:{session}", event.author, event.reason,
        ProtectionKind.SESSION if event.kind == "started" else None, (session,),
        build_arguments=lambda: encode_experiment_change(before, after, event),
        changed=(event.experiment.name,), approval=approval,
    )  # fmt: skip
