"""A collector for tests: receives OTLP over HTTP, keeps what processes export, and shows each trace as a page."""

from __future__ import annotations

import gzip
import html
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class ExportedSpan:
    """A span as the collector received it; ids are hexadecimal, an empty ``parent`` is a root."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    links: tuple[str, ...]
    failed: bool
    service: str
    started_ns: int
    ended_ns: int


@dataclass
class Collector:
    """What was exported so far.

    Attributes:
        url: the endpoint for ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        spans: the spans, in the order in which they were received.
        metrics: the last value of each sum, or the count of each histogram, by metric, service instance and labels.
    """

    url: str
    spans: list[ExportedSpan] = field(default_factory=list["ExportedSpan"])
    metrics: dict[tuple[str, str, tuple[str, ...]], float] = field(default_factory=dict[Any, float])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def trace(self, trace: str) -> list[ExportedSpan]:
        """Return the spans of a trace by their start."""
        with self._lock:
            return sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.started_ns)

    def find(self, name: str, **attributes: Any) -> list[ExportedSpan]:
        """Return the spans of a name with these attributes; ``_`` stands for a dot."""
        with self._lock:
            spans = [span for span in self.spans if span.name == name]
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [span for span in spans if all(span.attributes.get(key) == value for key, value in wanted.items())]

    def total(self, metric: str, *labels: str) -> float:
        """Return the sum of a metric over all processes, for label sets that contain these values."""
        with self._lock:
            return sum(
                value
                for (name, _, values), value in self.metrics.items()
                if name == metric and set(labels) <= set(values)
            )

    def add_spans(self, body: bytes) -> None:
        """Keep the spans of an export."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = str(_values(resource.resource.attributes).get("service.name", ""))
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                with self._lock:
                    self.spans.append(_read_span(span, service))

    def add_metrics(self, body: bytes) -> None:
        """Keep the values of an export, which are cumulative."""
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            instance = str(_values(resource.resource.attributes).get("service.instance.id", ""))
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                points = getattr(metric, metric.WhichOneof("data") or "gauge").data_points
                for point in points:
                    value = point.count if hasattr(point, "bucket_counts") else point.as_double or point.as_int
                    labels = tuple(sorted(map(str, _values(point.attributes).values())))
                    with self._lock:
                        self.metrics[metric.name, instance, labels] = float(value)


def _read_span(span: Any, service: str) -> ExportedSpan:
    return ExportedSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        _values(span.attributes),
        tuple((event.name, _values(event.attributes)) for event in span.events),
        tuple(link.span_id.hex() for link in span.links),
        span.status.code == 2,
        service,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


@contextmanager
def collector() -> Generator[Collector]:
    """Run a collector."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            (received.add_spans if self.path.endswith("/v1/traces") else received.add_metrics)(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            """Show a trace as a page, as a tracing system does."""
            spans = received.trace(self.path.removeprefix("/trace/"))
            names = "".join(f"<li>{html.escape(span.name)}</li>" for span in spans)
            body = f"<title>{len(spans)} spans</title><ul>{names}</ul>".encode()
            self.send_response(200 if spans else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
