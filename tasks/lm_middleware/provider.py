"""Send an LM call to the provider: the end of the chain."""

from __future__ import annotations

import logging
from dataclasses import replace

from dspy.lm15 import Request, Response

from snakepit_bridge.lm.models import drop_unsupported
from tasks.lm_middleware.middleware import PredictionCall
from tasks.prediction_context import PredictionContext

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
        self._note_dropped(scope, call.engine.endpoint.model, request)
        if pieces is not None:
            pieces.void()
        return await scope.within_deadline(call.engine.send(request, pieces))

    def _note_dropped(self, scope: PredictionContext, model: str, request: Request) -> None:
        """Record the keywords that a model doesn't support in the provenance, and log each once per process."""
        for name in drop_unsupported(model, request)[1]:
            scope.tally.dropped[name] = model
            if (model, name) not in self._logged:
                self._logged.add((model, name))
                _log.warning("LM '%s' does not support '%s'; it is called without it", model, name)
