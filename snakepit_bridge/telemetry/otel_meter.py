"""A meter that records with OpenTelemetry's SDK. Only imported once metrics are exported over OTLP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.metrics import Meter as OTelApiMeter

from snakepit_bridge.telemetry.instruments import NO_LABELS, Labels, LabelSets, Meter, Observations
from snakepit_bridge.telemetry.metrics import Metric


class OTelMeter(Meter):
    """Records metrics with a meter of OpenTelemetry.

    Args:
        otel: the meter.
        label_sets: the labels that are recorded.
    """

    enabled = True

    def __init__(self, otel: OTelApiMeter, label_sets: LabelSets) -> None:
        self._otel = otel
        self._label_sets = label_sets
        self._instruments: dict[str, Any] = {}
        self._attributes: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}

    def add(self, metric: Metric, amount: float = 1, labels: Labels = NO_LABELS) -> None:
        """Add an amount to a counter, or to a gauge that is summed over the processes."""
        self._instrument(metric).add(amount, self._resolve(metric, labels))

    def record(self, metric: Metric, value: float, labels: Labels = NO_LABELS) -> None:
        """Record one value of a histogram."""
        self._instrument(metric).record(value, self._resolve(metric, labels))

    def observe(self, metric: Metric, read: Observations) -> None:
        """Have the values of a gauge or a counter read at each export."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            found = self._label_sets.read(metric, read)
            return [Observation(value, self._name_values(metric, values)) for values, value in found.items()]

        is_counter = metric.kind == "counter"
        create = self._otel.create_observable_counter if is_counter else self._otel.create_observable_gauge
        create(metric.name, [observe], metric.unit, metric.description)

    def _instrument(self, metric: Metric) -> Any:
        instrument = self._instruments.get(metric.name)
        if instrument is None:
            instrument = self._instruments[metric.name] = self._create(metric)
        return instrument

    def _create(self, metric: Metric) -> Any:
        if metric.kind == "histogram":
            return self._otel.create_histogram(
                metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.buckets
            )
        create = self._otel.create_counter if metric.kind == "counter" else self._otel.create_up_down_counter
        return create(metric.name, metric.unit, metric.description)

    def _resolve(self, metric: Metric, labels: Labels) -> dict[str, str]:
        return self._name_values(metric, self._label_sets.values(metric, labels))

    def _name_values(self, metric: Metric, values: tuple[str, ...]) -> dict[str, str]:
        key = (metric.name, values)
        attributes = self._attributes.get(key)
        if attributes is None:
            names = self._label_sets.names(metric)
            attributes = {name: value for name, value in zip(names, values, strict=True) if value}
            self._attributes[key] = attributes
        return attributes
