"""Answer the LM calls of a prediction that is run again from its journal, and record those that are made."""

from __future__ import annotations

from dataclasses import replace

from dspy.lm15 import Response

from tasks.journal.entries import LMAnswer
from tasks.lm_middleware.middleware import CallNext, PredictionCall
from tasks.response_cache.cache_key import cache_key
from tasks.telemetry import record_replayed_call


class ReplayCalls:
    """Returns the recorded answer of a call; makes a call that has none, and records its answer."""

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the recorded answer, or the response of the rest of the chain."""
        journal = call.scope.journal
        if journal is None:
            return await call_next(call)
        if journal.counts_calls:
            call = replace(call, number=journal.count_call(call.call))
        found = _use(call, journal.find_answer(call.call))
        if found is not None:
            return found
        # What came before is sent with the commands of this call, which waits for it before it goes out.
        journal.flush()
        response = await call_next(call)
        journal.record_answer(call.call, response, call.usage)
        return response


class AwaitRecords:
    """Holds a call back until what came before it is recorded, so that no answer that it is built on can be lost.

    Where Redis was away meanwhile, another worker may have the message by now: what that one has recorded isn't asked.
    """

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain, or the answer that another worker has recorded."""
        journal = call.scope.journal
        if journal is None:
            return await call_next(call)
        await journal.wait_written(call.scope.deadline)
        if journal.may_have_changed:
            found = _use(call, await journal.find_news(call.call))
            if found is not None:
                return found
        return await call_next(call)


def _use(call: PredictionCall, answer: LMAnswer | None) -> Response | None:
    """Return the response of a recorded answer, which counts as the call's; None if there is none."""
    if answer is None:
        return None
    scope = call.scope
    if scope.cache is not None:
        # It counts as made: a further one with the same request is another sample.
        cache_key(scope, call.call, across_sessions=scope.cache.share == "fleet")
    if answer.answered_by:
        scope.tally.answered_calls[answer.answered_by] += 1
    record_replayed_call(scope.program)
    return answer.response
