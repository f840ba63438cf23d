"""A meter whose metrics Prometheus scrapes. Only imported once that is switched on.

In a worker that forks its processes, all of them write into files of one folder, which the parent reads at a scrape:
the client library's multiprocess mode.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from snakepit_bridge.telemetry.instruments import NO_LABELS, Labels, LabelSets, Meter, Observations
from snakepit_bridge.telemetry.metrics import CATALOG, Metric, Process

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The client library's variable; it must be set before the library is first imported."""

# A second series for the time at which each counter began would double their number.
prometheus_client.disable_created_metrics()

# Units as the OpenTelemetry specification has Prometheus spell them; a unit in braces isn't part of the name.
_UNITS = {"s": "seconds", "By": "bytes"}


def prometheus_name(metric: Metric) -> str:
    """Return a metric's name in Prometheus, without the ``_total`` that the client library gives a counter."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", metric.name)
    unit = _UNITS.get(metric.unit, "")
    return f"{name}_{unit}" if unit and not name.endswith(unit) else name


def prometheus_labels(names: Iterable[str]) -> list[str]:
    """Return label names in Prometheus."""
    return [name.replace(".", "_") for name in names]


class PrometheusMeter(Meter):
    """Records metrics with Prometheus's client library.

    Args:
        label_sets: the labels that are recorded.
        process: the kind of this process, whose metrics are shown before anything is recorded.

    Attributes:
        registry: what is scraped, with what all processes have recorded in multiprocess mode.
    """

    enabled = True

    def __init__(self, label_sets: LabelSets, process: Process = "worker") -> None:
        self._label_sets = label_sets
        self._lock = threading.Lock()
        self._own = CollectorRegistry()
        self.registry = self._own
        if folder := os.environ.get(MULTIPROCESS_FOLDER):
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry, path=folder)  # pyright: ignore[reportArgumentType]
        # From the start, so that counters that nothing has happened to are 0.
        own = [metric for metric in CATALOG.values() if process in metric.processes]
        self._metrics = {metric.name: self._create(metric) for metric in own}
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}

    def add(self, metric: Metric, amount: float = 1, labels: Labels = NO_LABELS) -> None:
        """Add an amount to a counter, or to a gauge that is summed over the processes."""
        self._child(metric, labels).inc(amount)

    def record(self, metric: Metric, value: float, labels: Labels = NO_LABELS) -> None:
        """Record one value of a histogram."""
        self._child(metric, labels).observe(value)

    def observe(self, metric: Metric, read: Observations) -> None:
        """Have the values of a gauge or a counter read at each scrape."""
        with self._lock:
            if (shown := self._metrics.pop(metric.name, None)) is not None:
                self._own.unregister(shown)
        self.registry.register(_ObservedMetric(metric, self._label_sets, read))

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return prometheus_client.generate_latest(self.registry)

    def _child(self, metric: Metric, labels: Labels) -> Any:
        values = self._label_sets.values(metric, labels)
        key = (metric.name, values)
        child = self._children.get(key)
        if child is None:
            family = self._family(metric)
            child = self._children[key] = family.labels(*values) if values else family
        return child

    def _family(self, metric: Metric) -> Any:
        with self._lock:
            family = self._metrics.get(metric.name)
            if family is None:
                family = self._metrics[metric.name] = self._create(metric)
            return family

    def _create(self, metric: Metric) -> Any:
        name, labels = prometheus_name(metric), prometheus_labels(self._label_sets.names(metric))
        options: dict[str, Any] = {"labelnames": labels, "registry": self._own}
        if metric.kind == "histogram":
            return prometheus_client.Histogram(name, metric.description, buckets=metric.buckets, **options)
        if metric.kind == "counter":
            return prometheus_client.Counter(name, metric.description, **options)
        return prometheus_client.Gauge(name, metric.description, multiprocess_mode="livesum", **options)


class _ObservedMetric(Collector):
    def __init__(self, metric: Metric, label_sets: LabelSets, read: Observations) -> None:
        self._metric = metric
        self._label_sets = label_sets
        self._read = read

    def describe(self) -> Iterable[Any]:
        """Return nothing, so that registering it reads no value."""
        return []

    def collect(self) -> Iterable[Any]:
        """Return the metric with its present values."""
        labels = prometheus_labels(self._label_sets.names(self._metric))
        kind = CounterMetricFamily if self._metric.kind == "counter" else GaugeMetricFamily
        family = kind(prometheus_name(self._metric), self._metric.description, labels=labels)
        for values, value in self._label_sets.read(self._metric, self._read).items():
            family.add_metric(list(values), value)
        yield family
