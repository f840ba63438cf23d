"""Record LM calls: a span for each call, and the duration and tokens of each request to a provider.

Names and attributes are those of OpenTelemetry's GenAI semantic conventions, v0.1.0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dspy.lm15 import LM15Error, Response, StreamDeltaEvent

from snakepit_bridge.costs.usage import PICO_PER_USD, LMUsage, sum_usage
from snakepit_bridge.lm.streaming import StreamEvent, StreamSink
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.instruments import Attributes
from snakepit_bridge.telemetry.metrics import (
    LM_CACHED_TOKENS,
    LM_DURATION,
    LM_FALLBACKS,
    LM_FIRST_CHUNK,
    LM_INPUT_TOKENS,
    LM_OUTPUT_TOKENS,
    LM_REASONING_TOKENS,
    LM_RETRIES,
)
from tasks.errors import retryable_kind
from tasks.lm_middleware.message_content import describe_content
from tasks.lm_middleware.middleware import CallNext, PredictionCall

# What the conventions call the providers that models are prefixed with otherwise.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


class TraceCalls:
    """Opens a span for each LM call, retries, fallbacks and cached answers included."""

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain."""
        tracer = TELEMETRY.tracer
        if not tracer.enabled:
            return await call_next(call)
        _, model = split_model(call.engine.endpoint.model)
        with tracer.span(f"{call.engine.operation} {model}", kind="client", attributes=_describe_request(call)) as span:
            try:
                response = await call_next(call)
            finally:
                span.set_attributes({"dspex.cost": _sum_costs(call.charges)})
            if span.is_recording:
                span.set_attributes(_describe_response(response))
            return response


class MeasureRequests:
    """Measures each request to a provider, and notes on the call's span what reaches the provider."""

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain."""
        tracer, meter = TELEMETRY.tracer, TELEMETRY.meter
        if call.engine is not call.call.engine:
            tracer.current_span().set_attributes({"dspex.fallback_profile": call.profile})
        response = await (self._measure(call, call_next) if meter.enabled else call_next(call))
        if tracer.captures_content:
            tracer.current_span().set_attributes(describe_content(call.call.request, response))
        return response

    async def _measure(self, call: PredictionCall, call_next: CallNext) -> Response:
        meter = TELEMETRY.meter
        labels, started, charged = _labels(call), time.perf_counter(), len(call.charges)
        if call.call.sink is not None:
            call = replace(call, call=replace(call.call, sink=_FirstChunk(call.call.sink, labels)))
        try:
            response = await call_next(call)
        except BaseException as exc:
            meter.record(LM_DURATION, time.perf_counter() - started, {**labels, "error.type": error_type(exc)})
            raise
        finally:
            _count_tokens(sum_usage(call.charges[charged:]), labels)
        meter.record(LM_DURATION, time.perf_counter() - started, labels)
        if call.engine is not call.call.engine:
            meter.add(LM_FALLBACKS, 1, {"dspex.profile": call.profile})
        return response


class _FirstChunk:
    """Passes the events of a streamed answer on, and measures when its first content arrives."""

    def __init__(self, sink: StreamSink, labels: Mapping[str, str]) -> None:
        self._sink = sink
        self._labels = labels
        self._started = time.perf_counter()
        self._has_arrived = False

    @property
    def any(self) -> bool:
        return self._sink.any

    @any.setter
    def any(self, value: bool) -> None:
        self._sink.any = value

    async def __call__(self, event: StreamEvent) -> None:
        if not self._has_arrived and isinstance(event, StreamDeltaEvent):
            self._has_arrived = True
            TELEMETRY.meter.record(LM_FIRST_CHUNK, time.perf_counter() - self._started, self._labels)
        await self._sink(event)

    def void(self) -> None:
        self._sink.void()


def record_retry(call: PredictionCall, error: LM15Error, pause_s: float) -> None:
    """Record that a call failed and is retried after a pause, here or by another delivery of its task."""
    kind = error_type(error)
    TELEMETRY.tracer.current_span().add_event("dspex.lm.retry", {"error.type": kind, "dspex.pause_s": pause_s})
    TELEMETRY.meter.add(LM_RETRIES, 1, {"dspex.profile": call.profile, "error.type": kind})


def split_model(model: str) -> tuple[str, str]:
    """Return the provider and the name of a model; the provider is ``_OTHER`` if the model names none."""
    provider, slash, name = model.partition("/")
    return (_PROVIDERS.get(provider, provider), name) if slash else ("_OTHER", model)


def _sum_costs(charges: Sequence[LMUsage]) -> float | None:
    """Return what all requests of a call cost in USD; None if there was none, or the cost of one isn't known."""
    total = sum_usage(charges)
    return total.cost_pico / PICO_PER_USD if charges and not total.unpriced_calls else None


def error_type(error: BaseException) -> str:
    """Return the kind of a failed call's error, as metrics are labelled with it."""
    if isinstance(error, LM15Error):
        return retryable_kind(error) or error.code or type(error).__name__
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__


def _labels(call: PredictionCall) -> Mapping[str, str]:
    provider, model = split_model(call.engine.endpoint.model)
    return {
        "gen_ai.operation.name": call.engine.operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
    }


def _count_tokens(usage: LMUsage, labels: Mapping[str, str]) -> None:
    for metric, count in (
        (LM_INPUT_TOKENS, usage.input_tokens),
        (LM_OUTPUT_TOKENS, usage.output_tokens),
        (LM_CACHED_TOKENS, usage.cached_input_tokens),
        (LM_REASONING_TOKENS, usage.reasoning_tokens),
    ):
        if count:
            TELEMETRY.meter.add(metric, count, labels)


def _describe_request(call: PredictionCall) -> Attributes:
    provider, model = split_model(call.engine.endpoint.model)
    config = call.call.request.config
    return {
        "gen_ai.operation.name": call.engine.operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "gen_ai.request.temperature": config.temperature,
        "gen_ai.request.top_p": config.top_p,
        "gen_ai.request.top_k": config.top_k,
        "gen_ai.request.max_tokens": config.max_tokens,
        "gen_ai.request.seed": config.seed,
        "gen_ai.request.stop_sequences": list(config.stop) or None,
        "gen_ai.request.stream": True if call.call.sink is not None else None,
        "dspex.profile": call.profile,
    }


def _describe_response(response: Response) -> Attributes:
    usage = response.usage
    return {
        "gen_ai.response.model": response.model,
        "gen_ai.response.id": response.id,
        "gen_ai.response.finish_reasons": [str(response.finish_reason)],
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_write.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
