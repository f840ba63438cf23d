"""Admit LM calls only of a running prediction, and keep them where a cancellation finds them."""

from __future__ import annotations

from dspy.lm15 import Response

from snakepit_bridge.dspy_integration.thread_context import no_prediction_error
from snakepit_bridge.exceptions import LMCallOutsidePredictionError, copy_error
from tasks.lm_middleware.middleware import CallNext, PredictionCall
from tasks.prediction_context import PredictionContext, current_prediction


def require_prediction() -> PredictionContext:
    """Return the context of the prediction that makes the current LM call.

    Raises:
        LMCallOutsidePredictionError: the call belongs to no prediction, or to one that has ended.
        LMUnavailableError: an earlier call of the prediction is retried by redelivery, so this delivery is over.
    """
    scope = current_prediction()
    if scope is None:
        raise no_prediction_error()
    if scope.has_ended:
        raise LMCallOutsidePredictionError(f"prediction {scope.task_id} has ended")
    if scope.tally.deferred is not None:
        # The task is requeued already; the answer would be paid for and thrown away.
        raise copy_error(scope.tally.deferred)
    return scope


class TrackCalls:
    """Registers a call while it is in flight, so that a cancellation cancels it, and counts finish reasons."""

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain."""
        with call.scope.track_call():
            response = await call_next(call)
        tally = call.scope.tally
        tally.finish_reasons[response.finish_reason] += 1
        tally.last_finish_reason = response.finish_reason
        return response
