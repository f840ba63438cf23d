"""The steps of a rollout: each is the next record, with the event that tells why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.decision import Decision, DecisionKind
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.policy import RolloutPolicy
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

CONTROLLER = "controller"
"""The author of the steps that the fleet takes by itself."""

NOTICE_S = 2.0
"""Seconds from a step to the beginning of its stage, in which every worker learns of it."""


def begin_stage(
    record: RolloutRecord,
    number: int,
    share: int,
    now_s: float,
    *,
    author: str,
    reason: str,
    detail: Mapping[str, Any] | None = None,
) -> RolloutEvent:
    """Return the beginning of a stage, soon after a moment.

    Args:
        record: the rollout.
        number: of the stage, from 1.
        share: the candidate's in that stage, in millionths.
        now_s: the moment, in Unix seconds by the store's clock.
        author, reason, detail: of the event.
    """
    since_us = round((now_s + NOTICE_S) * 1e6)
    after = record.change(RolloutState.RUNNING, stage=number, share=share, since_us=since_us)
    return RolloutEvent("stage", after, author, reason, detail or {})


def promote(
    record: RolloutRecord, now_s: float, *, author: str, reason: str, detail: Mapping[str, Any] | None = None
) -> RolloutEvent:
    """Return the end in which everybody gets the candidate; arguments as of :func:`begin_stage`."""
    after = record.change(RolloutState.PROMOTED, share=MILLION, since_us=round(now_s * 1e6))
    return RolloutEvent("promoted", after, author, reason, detail or {})


def roll_back(
    record: RolloutRecord, now_s: float, *, author: str, reason: str, detail: Mapping[str, Any] | None = None
) -> RolloutEvent:
    """Return the end in which everybody stays with the baseline; arguments as of :func:`begin_stage`."""
    after = record.change(RolloutState.ROLLED_BACK, share=0, since_us=round(now_s * 1e6))
    return RolloutEvent("rolled_back", after, author, reason, detail or {})


def pause(record: RolloutRecord, *, author: str, reason: str, detail: Mapping[str, Any] | None = None) -> RolloutEvent:
    """Return a pause in which the candidate keeps its share; arguments as of :func:`begin_stage`."""
    return RolloutEvent("paused", record.change(RolloutState.PAUSED), author, reason, detail or {})


def suspend(record: RolloutRecord, now_s: float, *, author: str, reason: str) -> RolloutEvent:
    """Return a pause in which everybody gets the baseline; arguments as of :func:`begin_stage`."""
    after = record.change(RolloutState.PAUSED, share=0, since_us=round(now_s * 1e6))
    return RolloutEvent("paused", after, author, reason)


def resume(record: RolloutRecord, policy: RolloutPolicy, now_s: float, *, author: str, reason: str) -> RolloutEvent:
    """Return the end of a pause: the stage goes on, or begins anew if nobody got the candidate meanwhile.

    Args:
        record: the rollout, which is paused.
        policy: its policy.
        now_s: the moment, in Unix seconds by the store's clock.
        author, reason: of the event.
    """
    if not record.stage:
        after = record.change(RolloutState.NEW)
    elif record.share:
        after = record.change(RolloutState.RUNNING)
    else:
        share = policy.stages[min(record.stage, len(policy.stages)) - 1].share
        since_us = round((now_s + NOTICE_S) * 1e6)
        after = record.change(RolloutState.RUNNING, share=share, since_us=since_us)
    return RolloutEvent("resumed", after, author, reason)


def carry_out(decision: Decision, record: RolloutRecord, now_s: float) -> RolloutEvent | None:
    """Return the controller's step for a decision; None if it is to do nothing.

    Args:
        decision: what is to happen.
        record: the rollout that was decided on.
        now_s: the time by the store's clock, in Unix seconds.
    """
    about: Any = {"author": CONTROLLER, "reason": decision.reason, "detail": decision.detail()}
    match decision.kind:
        case DecisionKind.NONE:
            return None
        case DecisionKind.BEGIN | DecisionKind.ADVANCE:
            return begin_stage(record, decision.stage, decision.share, now_s, **about)
        case DecisionKind.PROMOTE:
            return promote(record, now_s, **about)
        case DecisionKind.ROLL_BACK:
            return roll_back(record, now_s, **about)
        case DecisionKind.PAUSE:
            return pause(record, **about)
