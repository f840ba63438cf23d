"""What commands say of a target that is staged: its two arms, and which is which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snakepit_bridge.exceptions import RolloutPolicyError
from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.experiments import parse_experiments
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord, RolloutState
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


def describe_publish(target: str, before: RolloutRecord | None, after: Snapshot) -> str:
    """Return in one sentence what a publish meant for a session's rollout; empty for nothing.

    Args:
        target: the session.
        before: the record of its rollout until then.
        after: the session now.
    """
    ended, now = before if before is not None and before.is_staged else None, after.rollout
    superseded = f"the rollout of {ended.candidate} was superseded" if ended else ""
    if now is None:
        return f"{superseded}: everybody gets {after.token}" if ended else ""
    if not now.is_open or (before is not None and now.id == before.id):
        return ""
    policy = read_policy_of(after)
    share = f"{format_share(policy.stages[0].share)} get it in stage 1" if policy else "nobody gets it yet"
    started = f"rollout {now.id} of {target} started: {share}, the others the baseline {now.baseline}"
    return f"{started}; {superseded}" if ended and ended.is_open else started


def read_policy_of(snapshot: Snapshot) -> RolloutPolicy | None:
    """Return the rollout policy of a session; None if it has none, or an invalid one."""
    variable = snapshot.variables.get(POLICY_VARIABLE)
    try:
        return None if variable is None else parse_policy(str(variable.value))
    except RolloutPolicyError:
        return None


def describe_policy(policy: RolloutPolicy) -> str:
    """Return a policy in one line: the shares of its stages, and its guards."""
    return f"{', '.join(format_share(stage.share) for stage in policy.stages)}; {', '.join(map(str, policy.guards))}"


def describe_differences(snapshot: Snapshot) -> dict[str, Variable | None]:
    """Return the variables of a staged session's baseline that differ from the candidate's; None for a missing one."""
    if snapshot.baseline is None:
        return {}
    return {name: baseline for name, (baseline, _) in snapshot.diff(snapshot.baseline).items()}


def name_experiments(text: str) -> list[str]:
    """Return the names of the experiments of a session's head or snapshot, which has them as text."""
    return [experiment.name for experiment in parse_experiments(text)]


def describe_experiments(session: str, names: Sequence[str]) -> str:
    """Return in one sentence which experiments run on a session."""
    run = "experiments run" if len(names) > 1 else "an experiment runs"
    return f"{run} on session {session}: {', '.join(names)}; see dspex-fleet experiment list {session}"


def record_fields(record: RolloutRecord | None) -> dict[str, Any] | None:
    """Return a record that stages something as JSON values; None for any other."""
    return None if record is None or not record.is_staged else record.as_dict()


def format_share(share: int) -> str:
    """Return a share in millionths as a percentage."""
    return f"{100 * share / MILLION:g} %"


def name_arm(name: str) -> str:
    """Return a token as it is, and a program's version without its digest."""
    return f"version {name.partition(':')[0]}" if ":" in name else name
