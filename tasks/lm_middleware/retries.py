"""Retry failed LM calls: after a short pause in this process, after a long one by redelivery of the task.

A call that fails in the end is recorded, for the case that the program swallows the exception.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from dataclasses import replace
from typing import Any

from dspy.lm15 import LM15Error, Response

from snakepit_bridge.exceptions import BridgeError, LMUnavailableError, ValidationError
from snakepit_bridge.lm.policies import RetryPolicy
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables.codec import shorten_repr
from tasks.errors import build_final_error, build_unavailable_error, describe_cause, retryable_kind
from tasks.lm_middleware.circuit_breaker import CircuitOpenError
from tasks.lm_middleware.middleware import CallNext, PredictionCall
from tasks.lm_middleware.telemetry import record_retry
from tasks.prediction_context import current_prediction

RETRY = "dspex.retry"
"""Session variable with a JSON object of :class:`RetryPolicy`'s fields, such as ``{"attempts": 5}``."""


def effective_retry_policy(profile: RetryPolicy, snapshot: Snapshot) -> RetryPolicy:
    """Return a profile's retry policy with the overrides of a snapshot.

    Raises:
        ValidationError: the session's variable isn't a JSON object of valid fields.
    """
    variable = snapshot.variables.get(RETRY)
    return profile if variable is None else _override(profile, variable.value)


@functools.lru_cache(maxsize=256)
def _override(profile: RetryPolicy, value: Any) -> RetryPolicy:
    try:
        fields = json.loads(value) if isinstance(value, str) else value
        if not isinstance(fields, dict):
            raise ValueError("it must be a JSON object")
        return profile.with_changes(fields)
    except ValueError as exc:
        rule = f"it says how LM calls are tried again, and {exc}"
        raise ValidationError(RETRY, shorten_repr(value), rule) from None


def may_repeat(call: PredictionCall, error: LM15Error) -> bool:
    """Return whether a failed call may be retried or go to a fallback; never once a chunk has reached the caller."""
    if call.has_streamed:
        return False
    return isinstance(error, CircuitOpenError) or retryable_kind(error) in call.policy.on


class Retries:
    """Repeats a call as its retry policy allows.

    Args:
        profiles: the LM profiles, with the retry policy of each.
    """

    def __init__(self, profiles: LMProfiles) -> None:
        self._profiles = profiles

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the first successful attempt.

        Raises:
            LMUnavailableError: the attempts are used up, or the next one is due in another delivery.
            LM15Error: a failure that isn't retried.
            ValidationError: the session's retry policy is invalid.
        """
        profile = self._profiles[call.profile]
        call = replace(call, policy=effective_retry_policy(profile.retry, call.scope.snapshot))
        attempts = _Attempts(call.scope.tries, call.scope.failing_s)
        while True:
            try:
                return await call_next(call)
            except LM15Error as exc:
                if not may_repeat(call, exc):
                    raise
                pause_s = _next_pause_s(call, exc, attempts)
            await asyncio.sleep(pause_s)


def _next_pause_s(call: PredictionCall, error: LM15Error, attempts: _Attempts) -> float:
    """Return the pause until the next attempt in this process.

    Raises:
        LMUnavailableError: there is no next attempt, or not in this process.
    """
    scope, policy, endpoint = call.scope, call.policy, call.call.engine.endpoint
    # Waiting for an open circuit is no attempt; it only takes time.
    is_open = isinstance(error, CircuitOpenError)
    failing_s = attempts.record_failure(attempted=not is_open)
    scope.tally.failed_tries += not is_open
    remaining_s = scope.remaining_s()
    failure = build_unavailable_error(error, profile=endpoint.profile, model=endpoint.model, tries=attempts.count)
    pause_s = min(failure.retry_after_s, policy.longest_s) if is_open else 0.0
    pause_s = pause_s or policy.pause_s(attempts.count, failure.retry_after_s)
    bound_s = policy.bound_s(None if remaining_s is None else failing_s + remaining_s)
    used_up = policy.attempts is not None and not is_open and attempts.count >= policy.attempts
    if used_up or failing_s + pause_s >= bound_s:
        raise failure from error
    if not is_open:
        record_retry(call, error, pause_s)
    # Before the first answer nothing is lost by waiting outside of this process.
    if pause_s > policy.in_place_s or (is_open and not scope.tally.answered_calls):
        failure.again_in_s, failure.failing_s = pause_s, failing_s + pause_s
        failure.cause = describe_cause(error, endpoint)
        raise failure from error
    return pause_s


class _Attempts:
    """Attempts at one call, and the seconds of retrying, including earlier deliveries of its task.

    Args:
        count: attempts in earlier deliveries.
        failing_s: seconds of retrying in earlier deliveries.
    """

    def __init__(self, count: int, failing_s: float) -> None:
        self.count = count
        self._earlier_s = failing_s
        self._failing_since: float | None = None

    def record_failure(self, *, attempted: bool) -> float:
        """Count a failure, and an attempt if one was made; return the seconds of retrying so far."""
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        self.count += attempted
        return self._earlier_s + now - self._failing_since


def record_failure(error: BridgeError) -> None:
    """Record the failure of an LM call of the current prediction; do nothing outside of one."""
    scope = current_prediction()
    if scope is not None:
        scope.tally.failure = error


class RecordFailures:
    """Keeps the last failure of a prediction's LM calls, and whether it is retried by redelivery."""

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain."""
        scope = call.scope
        try:
            return await call_next(call)
        except LMUnavailableError as exc:
            if exc.again_in_s is None:
                scope.tally.failure = exc
            else:
                scope.tally.deferred = exc
            raise
        except LM15Error as exc:
            endpoint = call.call.engine.endpoint
            tries = scope.tries + 1
            scope.tally.failure = build_final_error(exc, profile=endpoint.profile, model=endpoint.model, tries=tries)
            raise
