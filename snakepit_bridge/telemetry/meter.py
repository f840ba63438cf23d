"""The meter that records nothing, and what every meter has in common: label sets of bounded number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from snakepit_bridge.protocol.json_values import repair_text
from snakepit_bridge.telemetry.metrics import OPEN_LABELS, Metric

Labels = Mapping[str, str]
"""Attribute name to its value. Names that a metric doesn't have are ignored; missing ones are empty."""

Observations = Callable[[], Iterable[tuple[float, Labels]]]
"""Returns the present values of a metric; of several for one label set, the largest counts."""

NO_LABELS: Labels = {}
OVERFLOW = "(other)"
_MAX_LABEL_SETS = 1_000
_MAX_LENGTH = 200


class Meter:
    """A meter that records nothing."""

    enabled = False

    def add(self, metric: Metric, amount: float = 1, labels: Labels = NO_LABELS) -> None:
        """Add an amount to a counter, or to a gauge that is summed over the processes."""

    def record(self, metric: Metric, value: float, labels: Labels = NO_LABELS) -> None:
        """Record one value of a histogram."""

    def observe(self, metric: Metric, read: Observations) -> None:
        """Have the values of a gauge or a counter read at each export; from any thread, so they must not block."""


class MultiMeter(Meter):
    """A meter that records with several."""

    enabled = True

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters

    def add(self, metric: Metric, amount: float = 1, labels: Labels = NO_LABELS) -> None:
        """Add the amount with each."""
        for meter in self._meters:
            meter.add(metric, amount, labels)

    def record(self, metric: Metric, value: float, labels: Labels = NO_LABELS) -> None:
        """Record the value with each."""
        for meter in self._meters:
            meter.record(metric, value, labels)

    def observe(self, metric: Metric, read: Observations) -> None:
        """Have the values read by each."""
        for meter in self._meters:
            meter.observe(metric, read)


class LabelSets:
    """Turns labels into the values of a metric's label names, and bounds how many combinations a metric has.

    A program or model name comes from outside, and each new one is a new time series. Beyond the bound such a name
    becomes :data:`OVERFLOW`; outcomes and kinds of error, which are few, stay as they are.

    Args:
        extra: optional label names that this process records, such as ``dspex.session``.
        max_sets: combinations for each metric.
    """

    def __init__(self, extra: Iterable[str] = (), max_sets: int = _MAX_LABEL_SETS) -> None:
        self._extra = frozenset(extra)
        self._max_sets = max_sets
        self._names: dict[str, tuple[str, ...]] = {}
        self._seen: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {}

    def names(self, metric: Metric) -> tuple[str, ...]:
        """Return the label names of a metric in this process."""
        names = self._names.get(metric.name)
        if names is None:
            optional = (name for name in metric.optional if name in self._extra)
            names = self._names[metric.name] = (*metric.labels, *optional)
        return names

    def values(self, metric: Metric, labels: Labels) -> tuple[str, ...]:
        """Return the label values in the order of :meth:`names`."""
        names = self.names(metric)
        values = tuple([labels.get(name) or "" for name in names])
        seen = self._seen.setdefault(metric.name, {})
        known = seen.get(values)
        if known is not None:
            return known
        if len(seen) >= self._max_sets:
            return tuple(OVERFLOW if name in OPEN_LABELS else value for name, value in zip(names, values, strict=True))
        clean = tuple(repair_text(value)[:_MAX_LENGTH] for value in values)
        seen[values] = clean
        return clean

    def read(self, metric: Metric, observations: Observations) -> dict[tuple[str, ...], float]:
        """Return the observed values by label values; where an optional label is left out, the largest."""
        largest: dict[tuple[str, ...], float] = {}
        for value, labels in observations():
            key = self.values(metric, labels)
            largest[key] = max(value, largest.get(key, value))
        return largest
