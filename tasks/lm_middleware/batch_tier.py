"""Have the calls of LM profiles of the batch tier answered by their providers' batches."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from dspy.lm15 import LM15Error, ProviderError, Response
from dspy.lm15 import TimeoutError as LMTimeout

from snakepit_bridge.costs.usage import charge_usage
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.lm_batches.records import BatchReply, WaitingRequest
from tasks.lm_batches.parking import BatchParking
from tasks.lm_middleware.costs import record_charge
from tasks.lm_middleware.middleware import CallNext, PredictionCall

_NOT_PARKABLE = (
    "The LM profile '{profile}' is of the batch tier, so its predictions wait for their answers outside of workers. "
    "That needs Redis as the broker, and a message for each prediction: name another profile, or submit one by one."
)


class BatchTier:
    """Answers calls of the batch tier from the batches that had them, and parks the predictions of those that none had.

    Args:
        profiles: the LM profiles.
        parking: parks predictions; None where messages can't be parked.
    """

    def __init__(self, profiles: LMProfiles, parking: BatchParking | None) -> None:
        self._profiles = profiles
        self._parking = parking

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of a batch, of a fallback, or of the rest of the chain for a profile without a tier.

        Raises:
            ConfigurationError: the prediction can't be parked.
            LM15Error: the batch has no answer to the call, nor has a fallback.
        """
        profile = self._profiles[call.profile]
        if profile.tier != "batch":
            return await call_next(call)
        try:
            return await self._answer(call)
        except LM15Error:
            if not profile.fallbacks or call.scope.is_cancelled:
                raise
        # The rest of the chain knows the fallback's own fallbacks.
        return await call_next(replace(call, engine=self._profiles.get_engine(profile.fallbacks[0])))

    async def _answer(self, call: PredictionCall) -> Response:
        scope, journal = call.scope, call.scope.journal
        if self._parking is None or not scope.claim or journal is None:
            raise ConfigurationError(_NOT_PARKABLE.format(profile=call.profile))
        path, body = await call.engine.build_batch_request(call.request)
        request_id = hashlib.sha256(b"\0".join((scope.task_id.encode(), body, str(call.number).encode()))).hexdigest()
        request = WaitingRequest(request_id[:40], scope.task_id, call.profile, path, json.loads(body))
        reply = journal.find_reply(request.id)
        if reply is None:
            await self._parking.wait(scope, request)
        response = await call.engine.parse_batch_reply(call.request, *_check_processed(reply))
        price = self._profiles[call.profile].price_of(call.engine.endpoint.model)
        record_charge(call, charge_usage(response.usage, call.engine.dialect, price))
        scope.tally.answered_calls[call.profile] += 1
        return response


def _check_processed(reply: BatchReply) -> tuple[int, str]:
    """Return the status and the body of a reply.

    Raises:
        LM15Error: the provider never processed the request.
    """
    if reply.status:
        return reply.status, reply.body
    if "cancel" in reply.body:
        raise ProviderError("the batch that had the request was cancelled", code="batch_cancelled")
    raise LMTimeout("no batch that had the request answered it in time")
