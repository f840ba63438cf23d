"""What is measured of requests to a provider."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from dspy.lm15 import LM15Error, Response, ServerError, StreamDeltaEvent, StreamStartEvent, TextDelta

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.lm.streaming import StreamEvent
from snakepit_bridge.telemetry.metrics import (
    LM_CACHED_TOKENS,
    LM_DURATION,
    LM_FIRST_CHUNK,
    LM_INPUT_TOKENS,
    LM_OUTPUT_TOKENS,
)
from tasks.lm_middleware.middleware import PredictionCall
from tasks.lm_middleware.telemetry import MeasureRequests
from tests.harness.meter import recorded_meter
from tests.unit.tasks.callers import call, response, scope_of


class Sink:
    """Keeps the events of an answer."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.any = False
        self.voided = 0

    async def __call__(self, event: StreamEvent) -> None:
        self.any = True
        self.events.append(event)

    def void(self) -> None:
        self.voided += 1


EVENTS = (
    StreamStartEvent(id="1", model="demo"),
    StreamDeltaEvent(delta=TextDelta(text="be")),
    StreamDeltaEvent(delta=TextDelta(text="cause")),
)


async def provider(call: PredictionCall) -> Response:
    sink = call.call.sink
    if sink is not None:
        sink.void()
        for event in EVENTS:
            await sink(event)
        assert sink.any
    return response()


async def measure(sink: Any) -> list[float]:
    """Return the times to the first chunk that one request recorded."""
    sent = call()
    with recorded_meter() as meter:
        await MeasureRequests()(PredictionCall(scope_of(), replace(sent, sink=sink), sent.engine), provider)
    assert len(meter.of(LM_DURATION)) == 1
    assert all(labels["gen_ai.request.model"] == "demo" for _, labels in meter.of(LM_FIRST_CHUNK))
    return [seconds for seconds, _ in meter.of(LM_FIRST_CHUNK)]


async def test_the_first_content_of_a_stream_is_measured_once_and_all_events_arrive() -> None:
    sink = Sink()
    [seconds] = await measure(sink)
    assert 0 <= seconds < 1
    assert (tuple(sink.events), sink.any, sink.voided) == (EVENTS, True, 1)


async def test_a_request_that_is_not_streamed_has_no_first_chunk() -> None:
    assert await measure(None) == []


async def test_switched_off_the_sink_is_passed_on_as_it_is() -> None:
    sent, sink = call(), Sink()

    async def check(call: PredictionCall) -> Response:
        assert call.call.sink is sink
        return response()

    await MeasureRequests()(PredictionCall(scope_of(), replace(sent, sink=sink), sent.engine), check)


async def test_the_start_of_a_stream_is_no_content() -> None:
    async def start_only(call: PredictionCall) -> Response:
        assert call.call.sink is not None
        await call.call.sink(EVENTS[0])
        return response()

    sent = call()
    with recorded_meter() as meter:
        await MeasureRequests()(PredictionCall(scope_of(), replace(sent, sink=Sink()), sent.engine), start_only)
    assert not meter.of(LM_FIRST_CHUNK)


@pytest.mark.parametrize("failure", [None, ServerError("broke off after it was billed")])
async def test_the_tokens_of_a_request_are_those_that_it_is_charged_with(failure: LM15Error | None) -> None:
    async def charging(call: PredictionCall) -> Response:
        call.charges.append(LMUsage(1, 0, 100, 40, 30))
        if failure is not None:
            raise failure
        return response()

    sent = call()
    prediction_call = PredictionCall(scope_of(), sent, sent.engine, charges=[LMUsage(1, 0, 7, 0, 7)])
    with recorded_meter() as meter, suppress(ServerError):
        await MeasureRequests()(prediction_call, charging)
    counted = {metric.name: [amount for amount, _ in meter.of(metric)]
               for metric in (LM_INPUT_TOKENS, LM_CACHED_TOKENS, LM_OUTPUT_TOKENS)}  # fmt: skip
    assert list(counted.values()) == [[100], [40], [30]]
