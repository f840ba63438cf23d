"""Answer LM calls from the response cache, for programs that have one."""

from __future__ import annotations

from dspy.lm15 import Response

from tasks.cancellation import CancellationRegistry
from tasks.lm_middleware.middleware import CallNext, PredictionCall
from tasks.response_cache.single_flight import AnswerCache


class ResponseCache:
    """Returns cached answers, and joins identical calls in flight.

    Args:
        cache: the cached answers.
        cancellations: checked before a cached answer is returned.
    """

    def __init__(self, cache: AnswerCache, cancellations: CancellationRegistry) -> None:
        self._cache = cache
        self._cancellations = cancellations

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return a cached answer, or the response of the rest of the chain.

        Raises:
            DeadlineExceededError: the deadline has passed.
            PredictionCancelledError: the prediction was cancelled.
        """
        if call.scope.cache is None:
            return await call_next(call)
        await self._cancellations.check_wanted(call.scope)
        return await self._cache.get_or_call(call.scope, call.call, lambda: call_next(call))
