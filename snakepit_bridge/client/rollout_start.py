"""Start a rollout: publish a session's candidate under a policy, or stage a version of a program for a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from snakepit_bridge.exceptions import RolloutCandidateError, RolloutOverlapError, SessionNotFoundError
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.rollouts.experiments import parse_experiments
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RESERVED_PREFIX, RolloutRecord, RolloutState
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable

if TYPE_CHECKING:
    from snakepit_bridge.programs.rollouts import ProgramRollouts
    from snakepit_bridge.session_context import SessionContext

Policy = str | Mapping[str, Any] | RolloutPolicy
"""A policy, its JSON text, or that text's value."""


async def start_session(
    target: TargetName, context: SessionContext, values: Mapping[str, Any], policy: Policy | None, reason: str
) -> RolloutRecord:
    """Publish values as the candidate of a session, and return the rollout that it begins.

    Args:
        target: the session's name.
        context: the session, with the author.
        values: variable name to value, or to the variable itself.
        policy: None for the session's present one, or else the default.
        reason: for the session's history.

    Raises:
        RolloutPolicyError: the policy is invalid.
        RolloutCandidateError: the values are nothing to try.
        RolloutOverlapError: the session has an open rollout, or an experiment runs on it.
        BridgeError: what ``SessionContext.change`` raises.
    """
    text = None if policy is None else _encode(policy)
    try:
        now = await context.snapshot()
    except SessionNotFoundError:
        raise _refuse(target, values, "the session has no revision yet to compare it with") from None
    if now.rollout is not None and now.rollout.is_open:
        raise RolloutOverlapError(str(target), f"rollout {now.rollout.id}")
    if now.experiments:
        running = (f"experiment '{each.name}'" for each in parse_experiments(now.experiments))
        raise RolloutOverlapError(str(target), " and ".join(running))

    def propose(current: Mapping[str, Variable]) -> dict[str, Variable]:
        return _propose(target, now, current, values, text)

    await context.change(propose, reason=reason)
    record = (await context.snapshot()).rollout
    if record is None:
        raise _refuse(target, values, "another publish has ended its rollout meanwhile")
    return record


async def start_program(
    target: TargetName, rollouts: ProgramRollouts, version: int, policy: Policy | None, author: str, reason: str
) -> RolloutRecord:
    """Stage a version of a program for a label, and return the rollout that it begins.

    Args:
        target: the label's name.
        rollouts: of the registry.
        version: the candidate.
        policy: None for the default one.
        author, reason: of the event.

    Raises:
        RolloutPolicyError: the policy is invalid.
        BridgeError: what ``ProgramRollouts.start`` raises.
    """
    text = _encode({} if policy is None else policy)
    return await rollouts.start(target.name, target.label, version, text, author=author, reason=reason)


def _encode(policy: Policy) -> str:
    return (policy if isinstance(policy, RolloutPolicy) else parse_policy(policy)).encode()


def _propose(
    target: TargetName,
    before: Snapshot,
    current: Mapping[str, Variable],
    values: Mapping[str, Any],
    policy: str | None,
) -> dict[str, Variable]:
    """Return what to publish, if that begins a rollout."""
    changes = {name: _change(name, value, current.get(name)) for name, value in values.items()}
    staged = {name for name in changes if not name.startswith(RESERVED_PREFIX)}
    if not any(changes[name] != current.get(name) for name in staged):
        record = before.rollout
        if staged and record is not None and record.state is RolloutState.ROLLED_BACK:
            problem = "it was rolled back, and is the session's newest revision"
            retry = (
                f"To try it again, make the baseline the newest: dspex-fleet rollback {target.name} {record.baseline}"
            )
            raise RolloutCandidateError(str(target), ", ".join(values), problem, f"{retry}, then start it again.")
        raise _refuse(target, values, "the session has these values already, or only dspex. variables change")
    if policy is not None or POLICY_VARIABLE not in current:
        changes[POLICY_VARIABLE] = Variable.declare(POLICY_VARIABLE, policy or _encode({}))
    if before.baseline is not None and _own(before.baseline.variables) == _own({**current, **changes}):
        raise _refuse(target, values, "these are the values of the baseline; publish them to end the last rollout")
    return changes


def _own(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """Return the session's own variables, without the fleet's."""
    return {name: variable for name, variable in variables.items() if not name.startswith(RESERVED_PREFIX)}


def _change(name: str, value: Any, present: Variable | None) -> Variable:
    if isinstance(value, Variable):
        return value
    return Variable.declare(name, value) if present is None else present.with_value(value)


def _refuse(target: TargetName, values: Mapping[str, Any], problem: str) -> RolloutCandidateError:
    return RolloutCandidateError(str(target), ", ".join(values) or "no value", problem)
