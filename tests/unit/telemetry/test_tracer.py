"""Tracers: what is recorded with OpenTelemetry, and that the other one records nothing."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from snakepit_bridge.telemetry.instruments import NO_SPAN, Tracer
from snakepit_bridge.telemetry.otel_tracer import OTelTracer

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def exporter() -> Generator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> OTelTracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OTelTracer(provider.get_tracer("test"))


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"


def test_a_span_in_a_block_is_the_parent_of_those_that_start_there(
    tracer: OTelTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.span("outer", kind="consumer"), tracer.span("inner"):
        pass
    inner, outer = exporter.get_finished_spans()
    assert inner.parent == outer.context
    assert (outer.name, outer.kind, outer.parent) == ("outer", SpanKind.CONSUMER, None)


def test_the_context_of_headers_is_the_parent_and_wins_over_the_current_span(
    tracer: OTelTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.span("current"), tracer.span("remote", parent={"traceparent": TRACEPARENT, "other": 1}):
        pass
    assert parent_of(exporter.get_finished_spans()[0]) == f"{TRACE}-{SPAN}"


def test_a_root_span_begins_a_trace_and_links_what_it_is_about(
    tracer: OTelTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.span("batch"), tracer.span("input", root=True, links=[{"traceparent": TRACEPARENT}, {}]):
        pass
    item, batch = exporter.get_finished_spans()
    assert item.parent is None
    assert item.context is not None
    assert batch.context is not None
    assert item.context.trace_id != batch.context.trace_id
    assert [f"{link.context.span_id:016x}" for link in item.links] == [SPAN]


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "00-" + "0" * 32 + f"-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        TRACEPARENT + "-" + "a" * 10_000,
        TRACEPARENT.replace("0af", "0aß"),
        7,
        None,
        [TRACEPARENT],
        f"00-{TRACE}-{SPAN}-01\r\nx: y",
    ],
)
def test_a_malformed_or_oversized_context_is_dropped(
    tracer: OTelTracer, exporter: InMemorySpanExporter, hostile: object
) -> None:
    with tracer.span("one", parent={"traceparent": hostile}):
        pass
    assert only(exporter).parent is None


def test_an_oversized_tracestate_is_dropped_and_its_traceparent_kept(
    tracer: OTelTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.span("one", parent={"traceparent": TRACEPARENT, "tracestate": "a=" + "b" * 600}):
        pass
    assert parent_of(only(exporter)) == f"{TRACE}-{SPAN}"
    context = only(exporter).context
    assert context is not None
    assert not context.trace_state


def test_an_exception_fails_the_span_by_its_type_and_leaves_out_its_text(
    tracer: OTelTracer, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(ValueError, match="sk-secret"), tracer.span("one"):
        raise ValueError("sk-secret")
    span = only(exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {}) == {"error.type": "ValueError"}
    assert not span.events
    assert "sk-secret" not in span.to_json()


def test_attributes_of_none_are_left_out_and_sequences_of_text_stay_sequences(
    tracer: OTelTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.span("one", attributes={"a": None, "b": 1.5, "c": ("x", "y"), "d": {"odd": 1}}) as span:
        span.set_attributes({"e": None, "f": True})
        span.add_event("retry", {"error.type": "timeout", "nothing": None})
    recorded = only(exporter)
    assert dict(recorded.attributes or {}) == {"b": 1.5, "c": ("x", "y"), "d": "{'odd': 1}", "f": True}
    assert [(event.name, dict(event.attributes or {})) for event in recorded.events] == [
        ("retry", {"error.type": "timeout"})
    ]


def test_an_error_that_is_the_callers_leaves_the_status_of_a_servers_span_unset(
    tracer: OTelTracer, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(LookupError), tracer.span("one", kind="server", expected=(LookupError,)):
        raise LookupError
    span = only(exporter)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {"error.type": "LookupError"}


def test_half_of_a_surrogate_pair_spoils_no_export(tracer: OTelTracer, exporter: InMemorySpanExporter) -> None:
    with tracer.span("one", attributes={"a": "\ud800", "b": ["\ud800"]}):
        pass
    only(exporter).to_json().encode()


def test_a_span_carries_its_context_in_headers(tracer: OTelTracer, exporter: InMemorySpanExporter) -> None:
    headers: dict[str, str] = {}
    with tracer.span("one") as span:
        span.inject(headers)
    context = only(exporter).context
    assert context is not None
    # The last two digits are flags: sampled, and in newer versions that the trace id is random.
    assert headers.pop("traceparent")[:-2] == f"00-{context.trace_id:032x}-{context.span_id:016x}-"
    assert not headers


def test_the_tracer_that_is_off_hands_out_spans_that_do_nothing() -> None:
    headers: dict[str, str] = {}
    tracer = Tracer()
    with tracer.span("one", kind="consumer", parent={"traceparent": TRACEPARENT}) as span:
        span.set_attributes({"a": 1})
        span.inject(headers)
        assert tracer.current_span() is span is NO_SPAN
    assert not headers
    assert not span.is_recording
