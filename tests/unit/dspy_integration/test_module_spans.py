"""Spans of modules and tools: one for each call, nested as the calls are, whatever callbacks a program sets."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import dspy
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from snakepit_bridge.dspy_integration.module_spans import trace_modules, untrace_modules
from tests.harness.spans import recorded_spans


class Inner(dspy.Module):
    def forward(self, number: int) -> dspy.Prediction:
        return dspy.Prediction(number=dspy.Tool(double, name="double")(number=number))

    async def aforward(self, number: int) -> dspy.Prediction:
        return dspy.Prediction(number=await dspy.Tool(double, name="double").acall(number=number))


class Outer(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, number: int) -> Any:
        return self.inner(number=number)

    async def aforward(self, number: int) -> Any:
        return await self.inner.acall(number=number)


def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def exporter() -> Generator[InMemorySpanExporter]:
    with recorded_spans() as exporter:
        trace_modules()
        yield exporter
        untrace_modules()


def tree(exporter: InMemorySpanExporter) -> dict[str, str]:
    """Return each span's name with that of its parent."""
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans if span.context is not None}
    return {span.name: "" if span.parent is None else names[span.parent.span_id] for span in spans}


NESTED = {"Outer.forward": "", "Inner.forward": "Outer.forward", "execute_tool double": "Inner.forward"}


def test_each_call_of_a_module_or_tool_is_a_span_within_its_callers(exporter: InMemorySpanExporter) -> None:
    assert Outer()(number=2).number == 4
    assert tree(exporter) == NESTED


async def test_calls_of_coroutines_are_traced_alike(exporter: InMemorySpanExporter) -> None:
    assert (await Outer().acall(number=2)).number == 4
    assert tree(exporter) == NESTED


def test_a_program_that_sets_its_own_callbacks_is_traced(exporter: InMemorySpanExporter) -> None:
    with dspy.context(callbacks=[]):
        Outer()(number=2)
    assert tree(exporter) == NESTED


def test_a_call_that_raises_is_a_failed_span(exporter: InMemorySpanExporter) -> None:
    def fail() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        dspy.Tool(fail, name="fail")()
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert span.attributes is not None
    assert span.attributes["error.type"] == "LookupError"


def test_untraced_modules_are_dspys_own() -> None:
    before = dspy.Module.acall, dspy.Tool.__call__
    trace_modules()
    assert (dspy.Module.acall, dspy.Tool.__call__) != before
    untrace_modules()
    assert (dspy.Module.acall, dspy.Tool.__call__) == before
