"""Build the chain of middleware around the LM calls of a process, which ends at the provider."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace

from dspy.lm15 import Request, Response

from snakepit_bridge.lm.engine import LMCall, LMEngine
from snakepit_bridge.lm.profiles import LMProfiles
from tasks.cancellation import CancellationRegistry
from tasks.lm_batches.parking import BatchParking
from tasks.lm_middleware.batch_tier import BatchTier
from tasks.lm_middleware.cancellation import TrackCalls, require_prediction
from tasks.lm_middleware.capture import CaptureCalls
from tasks.lm_middleware.circuit_breaker import CircuitBreakers
from tasks.lm_middleware.costs import CountCosts
from tasks.lm_middleware.fallbacks import Fallbacks
from tasks.lm_middleware.journal import AwaitRecords, ReplayCalls
from tasks.lm_middleware.middleware import CallNext, LMMiddleware, PredictionCall, compose
from tasks.lm_middleware.rate_limits import LimitUpdates, ProviderPauses, RateLimits
from tasks.lm_middleware.response_cache import ResponseCache
from tasks.lm_middleware.retries import RecordFailures, Retries
from tasks.lm_middleware.telemetry import MeasureRequests, TraceCalls
from tasks.lm_middleware.user_middleware import UserMiddleware
from tasks.prediction_context import PredictionContext
from tasks.rate_limits.protocol import RateLimiter
from tasks.response_cache.single_flight import AnswerCache


@dataclass(frozen=True, slots=True)
class _Needs:
    """Which of the middlewares that not every call needs a call passes through."""

    capture: bool
    journal: bool
    batches: bool
    cache: bool
    fallbacks: bool


class LMMiddlewareChain:
    """The chain that every LM call of a process passes through. Lives on the home loop.

    Args:
        profiles: the LM profiles.
        limiter: the rate limits of the fleet.
        cancellations: the running predictions.
        cache: the response cache.
        user: the user's own middleware; None if there is none.
        parking: parks predictions that wait for batches; None where messages can't be parked.
    """

    def __init__(
        self,
        profiles: LMProfiles,
        limiter: RateLimiter,
        cancellations: CancellationRegistry,
        cache: AnswerCache,
        user: UserMiddleware | None = None,
        parking: BatchParking | None = None,
    ) -> None:
        self._profiles = profiles
        self._cancellations = cancellations
        self._cache = cache
        self._user = user
        self._parking = parking
        self._provider = Provider()
        self._updates = LimitUpdates(limiter)
        self._circuits = CircuitBreakers(profiles)
        self._compose = functools.cache(self._compose_needed)

    async def __call__(self, call: LMCall) -> Response:
        """Return the response to an LM call of the current prediction.

        Raises:
            LMUnavailableError: the retries are used up, or the next one is due in another delivery.
            LM15Error: a failure that isn't retried.
            DeadlineExceededError, PredictionCancelledError: the prediction is no longer wanted.
            LMCallOutsidePredictionError: the call belongs to no prediction, or to one that has ended.
        """
        scope, profile = require_prediction(), self._profiles[call.engine.endpoint.profile]
        needs = _Needs(
            capture=scope.capture is not None,
            journal=scope.journal is not None,
            batches=profile.tier == "batch",
            cache=scope.cache is not None,
            fallbacks=bool(profile.fallbacks),
        )
        return await self._compose(needs)(PredictionCall(scope, call, call.engine))

    def _compose_needed(self, needs: _Needs) -> CallNext:
        """Return the chain for calls with these needs; what they have no need for would pass them on as they are."""
        middlewares: list[LMMiddleware] = [TrackCalls(), TraceCalls(), RecordFailures()]
        middlewares += [] if self._user is None else [self._user]
        middlewares += [CaptureCalls()] if needs.capture else []
        middlewares += [ReplayCalls()] if needs.journal else []
        middlewares += [BatchTier(self._profiles, self._parking)] if needs.batches else []
        middlewares += [ResponseCache(self._cache, self._cancellations)] if needs.cache else []
        middlewares += [Retries(self._profiles)]
        middlewares += [Fallbacks(self._profiles, self._user)] if needs.fallbacks else []
        middlewares += [ProviderPauses(self._updates), self._circuits, RateLimits(self._updates, self._cancellations)]
        middlewares += [AwaitRecords()] if needs.journal else []
        middlewares += [MeasureRequests(), CountCosts(self._profiles)]
        return compose(middlewares, self._provider)


_log = logging.getLogger(__name__)


class Provider:
    """Sends calls within the deadline of their prediction."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    async def __call__(self, call: PredictionCall) -> Response:
        """Return the provider's response.

        Raises:
            DeadlineExceededError: the deadline passed before the response.
            LM15Error: the call failed.
        """
        scope, pieces = call.scope, call.call.sink
        scope.tally.sent_requests += 1
        request = call.call.request
        if call.engine is not call.call.engine:
            request = replace(request, model=call.engine.endpoint.model)
        self._note_dropped(scope, call.engine, request)
        if pieces is not None:
            pieces.void()
        return await scope.within_deadline(call.engine.send(request, pieces))

    def _note_dropped(self, scope: PredictionContext, engine: LMEngine, request: Request) -> None:
        """Record the keywords that a model doesn't support in the provenance, and log each once per process."""
        model = engine.endpoint.model
        for name in engine.drop_unsupported(request)[1]:
            scope.tally.dropped[name] = model
            if (model, name) not in self._logged:
                self._logged.add((model, name))
                _log.warning("LM '%s' does not support '%s'; it is called without it", model, name)
