"""What people do to a rollout: begin its next stage early, pause it, resume it, or end it; each with a reason."""

from __future__ import annotations

from collections.abc import Callable

from snakepit_bridge.exceptions import RolloutMovedError, RolloutNotFoundError, RolloutStateError
from snakepit_bridge.releases import steps
from snakepit_bridge.releases.decisions import read_policy
from snakepit_bridge.releases.targets import RolloutTarget, TargetState, load_superseded
from snakepit_bridge.rollouts.events import RolloutEvent, check_attribution
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

# Steps of the controller come seconds apart, so that one in between is seldom and two are an error.
_ATTEMPTS = 5


async def advance(target: RolloutTarget, *, author: str, reason: str) -> RolloutRecord:
    """Begin the next stage at once, or promote the candidate after the last one; a paused rollout goes on by it.

    Args:
        target: what is staged.
        author, reason: of the event; neither may be blank.

    Raises:
        RolloutStateError: there is no open rollout.
        RolloutPolicyError: its policy is invalid.
        RolloutMovedError: the rollout was moved on meanwhile, so that advancing it would skip a stage.
        ValueError: the author or the reason is blank.
    """
    check_attribution("A step of a rollout", author, reason)
    state = await _load(target, "advance")
    stages, number = read_policy(state).stages, state.record.stage + 1
    if number > len(stages):
        event = steps.promote(state.record, state.now_s, author=author, reason=reason)
    else:
        share = stages[number - 1].share
        event = steps.begin_stage(state.record, number, share, state.now_s, author=author, reason=reason)
    return await target.step(state.record, event)


async def pause(target: RolloutTarget, *, author: str, reason: str) -> RolloutRecord:
    """Pause a rollout: the candidate keeps its share, guards hold, and no other stage begins.

    Args:
        target: what is staged.
        author, reason: of the event; neither may be blank.

    Raises:
        RolloutStateError: there is no rollout that goes on.
        ValueError: the author or the reason is blank.
    """
    return await _take(
        target, "pause", (RolloutState.NEW, RolloutState.RUNNING), author, reason,
        lambda state: steps.pause(state.record, author=author, reason=reason),
    )  # fmt: skip


async def resume(target: RolloutTarget, *, author: str, reason: str) -> RolloutRecord:
    """Resume a paused rollout in its stage.

    Args:
        target: what is staged.
        author, reason: of the event; neither may be blank.

    Raises:
        RolloutStateError: there is no paused rollout.
        RolloutPolicyError: its policy is invalid.
        ValueError: the author or the reason is blank.
    """
    return await _take(
        target, "resume", (RolloutState.PAUSED,), author, reason,
        lambda state: steps.resume(state.record, read_policy(state), state.now_s, author=author, reason=reason),
    )  # fmt: skip


async def abort(target: RolloutTarget, *, author: str, reason: str) -> RolloutRecord:
    """Roll back an open rollout: everybody stays with the baseline.

    Args:
        target: what is staged.
        author, reason: of the event; neither may be blank.

    Raises:
        RolloutStateError: there is no open rollout.
        ValueError: the author or the reason is blank.
    """
    return await _take(
        target, "abort", tuple(RolloutState), author, reason,
        lambda state: steps.roll_back(state.record, state.now_s, author=author, reason=reason),
    )  # fmt: skip


async def _take(
    target: RolloutTarget,
    step: str,
    states: tuple[RolloutState, ...],
    author: str,
    reason: str,
    plan: Callable[[TargetState], RolloutEvent],
) -> RolloutRecord:
    """Take a step that still makes sense after another one."""
    check_attribution("A step of a rollout", author, reason)
    for attempt in range(_ATTEMPTS):
        state = await _load(target, step)
        if state.record.state not in states:
            raise RolloutStateError(str(target.name), step, f"it is {state.record.state.replace('_', ' ')}")
        try:
            return await target.step(state.record, plan(state))
        except RolloutMovedError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _load(target: RolloutTarget, step: str) -> TargetState:
    """Return how a target with an open rollout stands."""
    state = await target.load()
    if state is None:
        if await load_superseded(target) is None:
            raise RolloutNotFoundError(str(target.name), step, "it was never staged")
        raise RolloutStateError(str(target.name), step, "it has ended")
    if not state.record.is_open:
        raise RolloutStateError(str(target.name), step, f"it is {state.record.state.replace('_', ' ')}")
    return state
