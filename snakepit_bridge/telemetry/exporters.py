"""OTLP exporters that log an outage of the collector once, instead of each failed export."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

_log = logging.getLogger(__name__)
_OTEL_LOGGER = "opentelemetry.exporter"


class _OutageLog:
    """Logs when exports begin to fail, and when they work again."""

    def __init__(self, what: str, endpoint: str) -> None:
        self._what = what
        self._endpoint = endpoint
        self._failing = False
        # Its own loggers report every try.
        logging.getLogger(_OTEL_LOGGER).setLevel(logging.CRITICAL)

    def note(self, *, succeeded: bool) -> None:
        if succeeded and self._failing:
            _log.warning("The collector accepts %s again", self._what)
        if not succeeded and not self._failing:
            _log.warning(
                "The collector at %s doesn't accept %s; what it misses is dropped, predictions go on",
                self._endpoint,
                self._what,
            )
        self._failing = not succeeded


class LoggedSpanExporter(OTLPSpanExporter):
    """Exports spans over OTLP/HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self._outage = _OutageLog("spans", self._endpoint)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans."""
        result = super().export(spans)
        self._outage.note(succeeded=result is SpanExportResult.SUCCESS)
        return result


class LoggedMetricExporter(OTLPMetricExporter):
    """Exports metrics over OTLP/HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self._outage = _OutageLog("metrics", self._endpoint)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export metrics."""
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self._outage.note(succeeded=result is MetricExportResult.SUCCESS)
        return result
