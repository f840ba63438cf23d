"""Admit LM calls under the limits of the whole fleet: estimate their costs, acquire permits, settle them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from celery.exceptions import Ignore

from snakepit_bridge.costs.usage import Price
from snakepit_bridge.exceptions import DeadlineExceededError, StoreUnavailableError
from snakepit_bridge.lm.profiles import ChosenLM
from snakepit_bridge.process.aio import wait_for_event
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.telemetry import TELEMETRY, Span
from tasks.prediction_context import PredictionContext
from tasks.rate_limits.estimates import Estimates
from tasks.rate_limits.leases import LimitLeases
from tasks.rate_limits.protocol import Caller, Estimate, Parked, Permit, RateLimiter, Used
from tasks.rate_limits.store import Costs, Granted, LimitRefusal

T = TypeVar("T")

_MAX_WAIT_S = 0.5
# A task that waits in its process is notified of its turn; it polls in case the notification is lost.
_RETRY_INTERVAL_S = 5.0
_NO_COSTS = Costs(0.0, 0.0)


class FleetAdmission:
    """Rate limits that hold over all workers together. Lives on the home loop.

    Args:
        presence: this process's part in the limits.
        prices: the token prices by profile and model; the others spend nothing.
    """

    def __init__(self, leases: LimitLeases, prices: Mapping[tuple[str, str], Price]) -> None:
        self._leases = leases
        self._store = leases.store
        self._prices = prices
        self._estimates = Estimates()

    async def begin(self) -> None:
        """Take part in the limits; see ``RateLimiter.begin``."""
        await self._leases.begin()

    async def aclose(self) -> None:
        """Stop taking part; see ``RateLimiter.aclose``."""
        await self._leases.aclose()

    async def before_start(self, caller: Caller, profile: str, estimate: Estimate) -> Permit | Parked:
        """Admit a task's first call or park the task; see ``RateLimiter.before_start``."""
        await retry_through_outages(self._leases.begin, deadline=caller.deadline)
        _check_deadline(caller)
        if self._leases.buckets_for(profile, caller.session, caller.snapshot) is None:
            return Permit(profile)
        call = _PendingCall(
            caller, profile, estimate, uuid4().hex, self._estimate_costs(caller.program, profile, estimate)
        )
        if self._store.parking_tag(caller):
            return await self._request_start(call)
        return await self._wait_in_place(call)

    async def _wait_in_place(self, call: _PendingCall) -> Permit:
        """Wait in the session's queue like a parked task, but in this process."""
        with self._leases.waiter(call.caller.task_id) as turn, _LimitSpan(call.profile) as span:
            try:
                while isinstance(answer := await self._request_start(call), Parked):
                    span.begin()
                    await wait_for_event(turn, _clamp_to_deadline(_RETRY_INTERVAL_S, call.caller.deadline))
                    turn.clear()
                    _check_deadline(call.caller)
            except (asyncio.CancelledError, DeadlineExceededError):
                self._leases.spawn(self._store.leave(call.caller.task_id))
                raise
        return answer

    async def _request_start(self, call: _PendingCall) -> Permit | Parked:
        """Return a permit for a task's first call, or that it waits in its session's queue."""
        caller, profile = call.caller, call.profile
        buckets = self._leases.buckets_for(profile, caller.session, caller.snapshot) or ()
        answer = await self._request(
            call,
            lambda: self._store.start(caller, call.permit, profile, call.costs, buckets, self._leases.ready_channel),
        )
        if isinstance(answer, Granted):
            return self._build_permit(call, answer.costs)
        return Parked(profile, answer.wait_s if isinstance(answer, LimitRefusal) else 0.0)

    async def admit(self, caller: Caller, profile: str, estimate: Estimate) -> Permit:
        """Admit a call; see ``RateLimiter.admit``."""
        await retry_through_outages(self._leases.begin, deadline=caller.deadline)
        _check_deadline(caller)
        if self._leases.buckets_for(profile, caller.session, caller.snapshot) is None:
            return Permit(profile)
        call = _PendingCall(
            caller, profile, estimate, uuid4().hex, self._estimate_costs(caller.program, profile, estimate)
        )
        try:
            with _LimitSpan(profile) as span:
                while isinstance(answer := await self._request_call(call), LimitRefusal):
                    span.begin()
                    await asyncio.sleep(_pause_s(answer, caller.deadline))
                    _check_deadline(caller)
        except (asyncio.CancelledError, DeadlineExceededError):
            self._leases.spawn(self._store.stop_waiting(call.permit, profile))
            raise
        return answer

    async def _request_call(self, call: _PendingCall) -> Permit | LimitRefusal:
        buckets = self._leases.buckets_for(call.profile, call.caller.session, call.caller.snapshot) or ()
        answer = await self._request(call, lambda: self._store.admit(call.permit, call.profile, call.costs, buckets))
        return self._build_permit(call, answer.costs) if isinstance(answer, Granted) else answer

    async def settle(self, permit: Permit, used: Used | None) -> None:
        """Settle a permit; see ``RateLimiter.settle``."""
        if not permit.id:
            return
        if used is None:
            await self._leases.end(permit.id, _NO_COSTS, requests=1)
            return
        self._estimates.learn(permit.program, permit.estimate, used)
        spend = used.cost_usd
        if spend is None:
            spend = self._estimate_usd(permit.profile, used.model, used.input_tokens, used.output_tokens)
        real = Costs(float(used.input_tokens + used.output_tokens), spend)
        await self._leases.end(permit.id, real, requests=1)

    async def give_back(self, permit: Permit) -> None:
        """Return an unused permit; see ``RateLimiter.give_back``."""
        await self._leases.end(permit.id, _NO_COSTS, requests=0)

    async def forget(self, task_id: str) -> None:
        """Return a task's reservation; see ``RateLimiter.forget``."""
        self._leases.spawn(self._store.leave(task_id))

    async def pause(self, profile: str, seconds: float) -> None:
        """Pause a profile; see ``RateLimiter.pause``."""
        self._leases.pause_here(profile, seconds)
        await self._store.pause(profile, seconds)

    def _estimate_costs(self, program: str, profile: str, estimate: Estimate) -> Costs:
        given, answered = self._estimates.predict_tokens(program, estimate)
        return Costs(given + answered, self._estimate_usd(profile, estimate.model, given, answered))

    def _estimate_usd(self, profile: str, model: str, input_tokens: float, output_tokens: float) -> float:
        price = self._prices.get((profile, model))
        return 0.0 if price is None else price.estimate_usd(input_tokens, output_tokens)

    def _build_permit(self, call: _PendingCall, costs: Costs) -> Permit:
        self._leases.hold(call.permit)
        return Permit(call.profile, call.permit, call.caller.program, call.estimate, costs.tokens, costs.spend)

    async def _request(self, call: _PendingCall, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Request a permit, retrying through outages; return the permit if the caller was cancelled."""
        try:
            return await retry_through_outages(ask, deadline=call.caller.deadline)
        except (asyncio.CancelledError, StoreUnavailableError):
            # The permit may have been granted although the reply was lost.
            self._leases.spawn(self._store.settle(call.permit, _NO_COSTS, requests=0))
            raise


@dataclass(frozen=True, slots=True)
class _PendingCall:
    """A call that is waiting for its permit."""

    caller: Caller
    profile: str
    estimate: Estimate
    permit: str
    costs: Costs


class _LimitSpan:
    """A span of the time that a call waits for a limit; none if it needn't wait."""

    def __init__(self, profile: str) -> None:
        self._profile = profile
        self._span: Span | None = None

    def begin(self) -> None:
        """Begin the span, unless it has begun."""
        if self._span is None:
            attributes = {"dspex.profile": self._profile}
            self._span = TELEMETRY.tracer.span("wait_for_limit", attributes=attributes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.end(error)


def _check_deadline(caller: Caller) -> None:
    if caller.deadline is not None and time.time() >= caller.deadline:
        raise DeadlineExceededError(caller.task_id, round(time.time() - caller.deadline, 3))


def _pause_s(refused: LimitRefusal, deadline: float | None) -> float:
    """Return the pause before the next request, bounded so that changed limits are noticed, with jitter."""
    return _clamp_to_deadline(min(refused.wait_s * random.uniform(1.0, 1.1), _MAX_WAIT_S), deadline)


def _clamp_to_deadline(wait_s: float, deadline: float | None) -> float:
    return wait_s if deadline is None else max(0.0, min(wait_s, deadline - time.time()))


_log = logging.getLogger(__name__)


class FirstPermit:
    """A permit for the first LM call of an ``async with`` block, which is returned if the call isn't made.

    Args:
        admission: the limits.
        scope: the prediction that the block runs.
        choice: the LM that it calls.
        inputs: its inputs, which say how many tokens it is likely to use.
    """

    def __init__(
        self, admission: RateLimiter, scope: PredictionContext, choice: ChosenLM, inputs: Mapping[str, Any]
    ) -> None:
        self._admission = admission
        self._scope = scope
        self._choice = choice
        self._inputs = inputs

    async def __aenter__(self) -> None:
        """Acquire the permit.

        Raises:
            Ignore: the task was parked; its message no longer belongs to this worker.
            DeadlineExceededError: the deadline passed while the task was waiting in this process.
            StoreUnavailableError: Redis is unavailable and a limit applies to the task.
        """
        scope, profile = self._scope, self._choice.profile
        characters = sum(map(_count_characters, self._inputs.values()))
        estimate = Estimate(characters, "inputs", model=str(self._choice.lm.model))
        permit = await self._admission.before_start(scope, profile, estimate)
        if isinstance(permit, Parked):
            TELEMETRY.tracer.current_span().add_event("dspex.parked", {"dspex.profile": profile})
            raise Ignore(f"prediction {scope.task_id} waits for the limits of '{profile}'")
        scope.permit = permit

    async def __aexit__(self, *_: object) -> None:
        unused = self._scope.take_permit()
        if unused is not None:
            await _give_back(self._admission, unused)


async def _give_back(admission: RateLimiter, permit: Permit) -> None:
    """Return a permit; on failure it expires by itself, and the result is kept."""
    try:
        await admission.give_back(permit)
    except Exception as exc:  # noqa: BLE001 - accounting must not cost a result
        _log.warning("Can't return a permit for '%s'; it will expire: %s", permit.profile, exc)


def _count_characters(value: object) -> int:
    return len(value) if isinstance(value, str) else len(repr(value))
