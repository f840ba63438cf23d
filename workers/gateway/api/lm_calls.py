"""Captured LM calls as messages."""

from __future__ import annotations

from snakepit_bridge.costs.usage import format_usd
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.lm.captured_calls import CapturedCall, CapturedCalls
from snakepit_bridge.variables.codec import encode_json
from workers.gateway.api.converters import timestamp_message
from workers.gateway.json_text import to_strict_json


def lm_calls_message(found: CapturedCalls | None) -> pb.ListLMCallsResponse:
    """Return the LM calls of a prediction as a message; None if they weren't captured."""
    if found is None:
        return pb.ListLMCallsResponse()
    return pb.ListLMCallsResponse(captured=True, calls=map(_call_message, found.calls), omitted=found.omitted)


def _call_message(call: CapturedCall) -> pb.LMCall:
    usage = call.usage
    return pb.LMCall(
        profile=call.profile,
        model=call.model,
        started_at=timestamp_message(call.started_at),
        duration_s=call.duration_s,
        messages_json=encode_json(to_strict_json([dict(message) for message in call.messages])),
        answer_json=b"" if call.answer is None else encode_json(to_strict_json(dict(call.answer))),
        requests=usage.calls,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_usd=None if usage.unpriced_calls else format_usd(usage.cost_pico),
        error=call.error,
        cut=call.is_cut,
    )
