"""Keep LM calls within the rate limits of the fleet, and pause a profile when its provider asks for it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Iterator

from dspy.lm15 import LM15Error, Response

from snakepit_bridge.costs.usage import PICO_PER_USD
from snakepit_bridge.process.aio import OutageLog
from tasks.cancellation import CancellationRegistry
from tasks.errors import retryable_kind
from tasks.lm_middleware.circuit_breaker import CircuitOpenError
from tasks.lm_middleware.middleware import CallNext, PredictionCall
from tasks.rate_limits.protocol import Estimate, Permit, RateLimiter, Used

_log = logging.getLogger(__name__)


class LimitUpdates:
    """Updates of the rate limits that must not fail a call: what isn't settled expires by itself.

    Args:
        limiter: the rate limits.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self.limiter = limiter
        self._outage = OutageLog(_log, "Can't update the rate limits with what LM calls have used")

    async def apply(self, update: Awaitable[None]) -> None:
        """Await an update; log its failure."""
        try:
            await update
        except Exception as exc:  # noqa: BLE001 - accounting must not cost an answer
            self._outage.failed(exc)
        else:
            if self._outage.is_down:
                self._outage.recovered()


class ProviderPauses:
    """Pauses a profile for the whole fleet for as long as its provider's ``retry_after`` says.

    Args:
        updates: updates of the rate limits.
    """

    def __init__(self, updates: LimitUpdates) -> None:
        self._updates = updates

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain."""
        try:
            return await call_next(call)
        except CircuitOpenError:
            raise  # the circuit's own retry_after concerns this process alone
        except LM15Error as exc:
            if exc.retry_after and retryable_kind(exc) is not None:
                pause_s = min(exc.retry_after, call.policy.longest_s)
                await self._updates.apply(self._updates.limiter.pause(call.profile, pause_s))
            raise


class RateLimits:
    """Acquires a permit for each call, and settles it with the tokens that were used.

    Args:
        updates: updates of the rate limits.
        cancellations: checked once the permit is granted, since waiting for it may take long.
    """

    def __init__(self, updates: LimitUpdates, cancellations: CancellationRegistry) -> None:
        self._updates = updates
        self._limiter = updates.limiter
        self._cancellations = cancellations

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain.

        Raises:
            DeadlineExceededError: the deadline passed while the call was waiting for its permit.
            PredictionCancelledError: the prediction was cancelled meanwhile.
        """
        permit = await self._acquire(call)
        try:
            await self._cancellations.check_wanted(call.scope)
        except BaseException:
            await self._updates.apply(self._limiter.give_back(permit))
            raise
        used: Used | None = None
        try:
            response = await call_next(call)
            used = _count_used(response, call)
        finally:
            await self._updates.apply(self._limiter.settle(permit, used))
        return response

    async def _acquire(self, call: PredictionCall) -> Permit:
        """Return the permit that the task was admitted with, for its first call, or a new one."""
        permit = call.scope.take_permit()
        if permit is not None:
            if permit.profile == call.profile:
                return permit
            await self._updates.apply(self._limiter.give_back(permit))
        return await self._limiter.admit(call.scope, call.profile, _estimate(call))


def _estimate(call: PredictionCall) -> Estimate:
    request = call.call.request
    system = request.system if isinstance(request.system, str) else "".join(_texts(request.system or ()))
    characters = sum(len(text) for message in request.messages for text in _texts(message.parts))
    model = call.engine.endpoint.model
    return Estimate(len(system) + characters, max_output_tokens=request.config.max_tokens, model=model)


def _texts(parts: Iterable[object]) -> Iterator[str]:
    for part in parts:
        text = getattr(part, "text", None)
        if isinstance(text, str):
            yield text


def _count_used(response: Response, call: PredictionCall) -> Used:
    """Return the tokens that the provider reported, or an estimate by the answer's length, and their known cost."""
    usage = response.usage
    estimated = sum(len(text) for text in _texts(response.message.parts)) // 4
    cost_usd = next((each.cost_pico / PICO_PER_USD for each in call.charges[-1:] if not each.unpriced_calls), None)
    written = estimated if usage.output_tokens is None else usage.output_tokens
    return Used(usage.input_tokens or 0, written, cost_usd, call.engine.endpoint.model)
