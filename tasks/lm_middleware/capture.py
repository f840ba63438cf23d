"""Capture the LM calls of predictions, to be kept with their results, on workers that are set to do so."""

from __future__ import annotations

import time

from dspy.lm15 import Response

from snakepit_bridge.costs.usage import sum_usage
from snakepit_bridge.lm.captured_calls import CallCapture, CapturedCall
from tasks.lm_middleware.message_content import describe_answer, describe_messages
from tasks.lm_middleware.middleware import CallNext, PredictionCall
from tasks.lm_middleware.telemetry import error_type


class CaptureCalls:
    """Adds each call to those that are kept with the prediction, as the user's middleware has passed it on."""

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain."""
        capture = call.scope.capture
        if capture is None:
            return await call_next(call)
        started_at, started, charged = time.time(), time.perf_counter(), len(call.charges)
        try:
            response = await call_next(call)
        except BaseException as exc:
            _add(capture, call, charged, started_at, time.perf_counter() - started, error=error_type(exc))
            raise
        _add(capture, call, charged, started_at, time.perf_counter() - started, response=response)
        return response


def _add(
    capture: CallCapture,
    call: PredictionCall,
    charged: int,
    started_at: float,
    duration_s: float,
    *,
    response: Response | None = None,
    error: str = "",
) -> None:
    charges = call.charges[charged:]
    answered_by = next(reversed(call.usage), call.profile) if charges else call.profile
    capture.add(
        CapturedCall(
            profile=answered_by,
            model=call.engine.endpoint.model if response is None else response.model,
            started_at=started_at,
            duration_s=round(duration_s, 6),
            usage=sum_usage(charges),
            messages=describe_messages(call.request),
            answer=None if response is None else describe_answer(response),
            error=error,
        )
    )
