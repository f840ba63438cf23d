"""Decide on a target as it was read: its policy, and what it calls for now."""

from __future__ import annotations

from snakepit_bridge.exceptions import RolloutPolicyError
from snakepit_bridge.releases.counts import StageCounts
from snakepit_bridge.releases.stage_time import StageTime
from snakepit_bridge.releases.targets import TargetState
from snakepit_bridge.rollouts.decision import Decision, decide
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy


def read_policy(state: TargetState) -> RolloutPolicy:
    """Return the policy of a target's rollout.

    Raises:
        RolloutPolicyError: there is none, or it is invalid.
    """
    if state.policy is None:
        raise RolloutPolicyError("the whole", "no policy", "Publish one.")
    return parse_policy(state.policy)


def decide_now(state: TargetState, policy: RolloutPolicy, counts: StageCounts, passed: StageTime) -> Decision:
    """Return what happens to a target's rollout next.

    Args:
        state: how the target stands.
        policy: the rollout's.
        counts: of its present stage.
        passed: the stage's time.
    """
    return decide(
        state.record,
        policy,
        counts.baseline,
        counts.candidate,
        state.refusals,
        state.now_s,
        state.now_s - passed.ran_s,
        max(counts.last_counted_s, passed.resumed_s),
    )
