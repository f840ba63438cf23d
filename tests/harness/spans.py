"""The spans that this process records, kept in memory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from snakepit_bridge.telemetry import setup


@contextmanager
def recorded_spans() -> Generator[InMemorySpanExporter]:
    """Record this process's spans within the block."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    setup.instrument(provider)
    try:
        yield exporter
    finally:
        setup.stop()
        provider.shutdown()
