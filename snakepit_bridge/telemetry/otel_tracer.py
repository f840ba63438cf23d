"""A tracer that records with OpenTelemetry. Only imported once tracing is switched on."""

from __future__ import annotations

from collections.abc import Generator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace import Span as OTelSpan
from opentelemetry.trace import Tracer as OTelApiTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from snakepit_bridge.protocol.json_values import repair_text
from snakepit_bridge.telemetry import instruments
from snakepit_bridge.telemetry.instruments import NO_SPAN, Attributes, Carrier

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "server": SpanKind.SERVER,
}
# W3C Trace Context: version 00 has 55 characters, and a vendor should be able to send 512 of tracestate.
_MAX_LENGTHS = {"traceparent": 55, "tracestate": 512}
_PROPAGATOR = TraceContextTextMapPropagator()

# A dictionary that its block changes in place, since the code that learns an attribute runs deep inside.
_shared: ContextVar[dict[str, Any] | None] = ContextVar("dspex_span_attributes", default=None)


class RecordingSpan(instruments.Span):
    """A span of OpenTelemetry.

    Args:
        span: the span, which has started.
        expected: exceptions that aren't its fault, and leave its status unset.
    """

    __slots__ = ("_expected", "_span", "_token")

    def __init__(self, span: OTelSpan, expected: tuple[type[BaseException], ...] = ()) -> None:
        self._span = span
        self._expected = expected
        self._token: Any = None

    @property
    def is_recording(self) -> bool:
        """Whether it is sampled."""
        return self._span.is_recording()

    def set_attributes(self, attributes: Attributes) -> None:
        """Set attributes; those that are None are left out."""
        self._span.set_attributes(_clean(attributes))

    def add_event(self, name: str, attributes: Attributes | None = None) -> None:
        """Add an event at this moment."""
        self._span.add_event(name, _clean(attributes or {}))

    def add_link(self, carrier: Carrier) -> None:
        """Link the span that a carrier names."""
        context = _extract_span_context(carrier)
        if context is not None:
            self._span.add_link(context)

    def fail(self, error_type: str, message: str = "") -> None:
        """Set the status to error."""
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(StatusCode.ERROR, message or None)

    def inject(self, headers: MutableMapping[str, Any]) -> None:
        """Write this span's context into headers."""
        _PROPAGATOR.inject(headers, trace.set_span_in_context(self._span, Context()))

    def end(self, error: BaseException | None = None) -> None:
        """End it; an exception sets its status to error, without the exception's text."""
        if error is not None and self._span.is_recording():
            if isinstance(error, self._expected):
                self._span.set_attribute("error.type", type(error).__name__)
            else:
                self.fail(type(error).__name__)
        self._span.end()

    def __enter__(self) -> Self:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it; an exception that leaves the block sets its status to error, without the exception's text."""
        otel_context.detach(self._token)
        self.end(error)


class OTelTracer(instruments.Tracer):
    """Records spans with a tracer of OpenTelemetry.

    Args:
        otel: the tracer.
        captures_content: whether prompts and answers are recorded, as the GenAI conventions' switch says.
    """

    enabled = True

    def __init__(self, otel: OTelApiTracer, *, captures_content: bool = False) -> None:
        self._otel = otel
        self.captures_content = captures_content

    def span(
        self,
        name: str,
        *,
        kind: instruments.SpanKind = "internal",
        attributes: Attributes | None = None,
        parent: Carrier | None = None,
        root: bool = False,
        links: Sequence[Carrier] = (),
        expected: tuple[type[BaseException], ...] = (),
    ) -> instruments.Span:
        """Start a span; use it in a ``with`` block, which ends it."""
        context: Context | None = Context() if root else None
        remote = _extract_span_context(parent) if parent and not root else None
        if remote is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        linked = [found for found in map(_extract_span_context, links) if found is not None]
        return RecordingSpan(
            self._otel.start_span(
                name,
                context,
                _KINDS[kind],
                {**(_shared.get() or {}), **_clean(attributes or {})},
                [Link(found) for found in linked],
                record_exception=False,
                set_status_on_exception=False,
            ),
            expected,
        )

    def current_span(self) -> instruments.Span:
        """Return the span of the code that runs here, or one that records nothing."""
        span = trace.get_current_span()
        return RecordingSpan(span) if span.get_span_context().is_valid else NO_SPAN

    def current_ids(self) -> tuple[str, str] | None:
        """Return the trace and span id of the code that runs here, hexadecimal as W3C has them; None outside of one."""
        context = trace.get_current_span().get_span_context()
        return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None

    @contextmanager
    def share(self, attributes: Attributes) -> Generator[None]:
        """Set attributes on every span that starts within the block, and on those that start from it elsewhere."""
        token = _shared.set({**(_shared.get() or {}), **_clean(attributes)})
        try:
            yield
        finally:
            with suppress(ValueError):  # a coroutine that is closed from outside ends in another context
                _shared.reset(token)

    def annotate(self, attributes: Attributes) -> None:
        """Set attributes on the current span, and on every further span of the innermost :meth:`share` block."""
        shared = _shared.get()
        if shared is not None:
            shared.update(_clean(attributes))
        self.current_span().set_attributes(attributes)


def _extract_span_context(carrier: Carrier) -> trace.SpanContext | None:
    """Return the span context in some headers, None if there is none, or one that is malformed or too long."""
    texts = {name: carrier.get(name) for name in _MAX_LENGTHS}
    fitting = {
        name: text
        for name, text in texts.items()
        if isinstance(text, str) and text.isascii() and len(text) <= _MAX_LENGTHS[name]
    }
    if "traceparent" not in fitting:
        return None
    found = trace.get_current_span(_PROPAGATOR.extract(fitting, Context())).get_span_context()
    return found if found.is_valid else None


def _clean(attributes: Attributes) -> dict[str, Any]:
    return {name: _plain(value) for name, value in attributes.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return repair_text(value)
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in cast("Sequence[Any]", value)):
        return [repair_text(each) for each in cast("Sequence[str]", value)]
    return repair_text(str(value))
