"""Record the failure of an LM call, for the case that the program swallows the exception."""

from __future__ import annotations

from dspy.lm15 import LM15Error, Response

from snakepit_bridge.exceptions import BridgeError, LMUnavailableError
from tasks.errors import build_final_error
from tasks.lm_middleware.middleware import CallNext, PredictionCall
from tasks.prediction_context import current_prediction


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
