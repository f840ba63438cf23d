"""A meter for tests, which keeps what is recorded."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.instruments import NO_LABELS, Labels, Meter, Observations
from snakepit_bridge.telemetry.metrics import Metric


class RecordedMeter(Meter):
    """A meter that keeps what is recorded, and refuses labels that its metric doesn't have.

    Args:
        thread: the only one whose values are kept; None for all.
    """

    enabled = True

    def __init__(self, thread: int | None = None) -> None:
        self._thread = thread
        self.values: list[tuple[str, float, dict[str, str]]] = []
        self.observed: dict[str, Observations] = {}

    def add(self, metric: Metric, amount: float = 1, labels: Labels = NO_LABELS) -> None:
        self.record(metric, amount, labels)

    def record(self, metric: Metric, value: float, labels: Labels = NO_LABELS) -> None:
        assert labels.keys() <= {*metric.labels, *metric.optional}, (metric.name, labels)
        assert set(metric.labels) <= labels.keys() | {"error.type"}, (metric.name, labels)
        if self._thread in (None, threading.get_ident()):
            self.values.append((metric.name, value, dict(labels)))

    def observe(self, metric: Metric, read: Observations) -> None:
        self.observed[metric.name] = read

    def of(self, metric: Metric) -> list[tuple[float, dict[str, str]]]:
        """Return the values of a metric with their labels, as they were recorded."""
        return [(value, labels) for name, value, labels in self.values if name == metric.name]

    def now(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """Return the present values of an observed metric, by the values of its labels."""
        return {tuple(labels.values()): value for value, labels in self.observed[metric.name]()}


@contextmanager
def recorded_meter(*, own_thread: bool = False) -> Generator[RecordedMeter]:
    """Within it, what this process records is kept.

    Args:
        own_thread: keep only what the calling thread records: clients of earlier tests may be at work on the home loop.
    """
    before, TELEMETRY.meter = TELEMETRY.meter, RecordedMeter(threading.get_ident() if own_thread else None)
    try:
        yield TELEMETRY.meter
    finally:
        TELEMETRY.meter = before
