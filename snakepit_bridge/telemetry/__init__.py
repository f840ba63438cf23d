"""Traces and metrics of the fleet, by OpenTelemetry's conventions.

The rest of the fleet records through :data:`TELEMETRY`. As long as nobody switches it on, its tracer and its meter do
nothing, and neither OpenTelemetry nor the Prometheus client is imported. ``docs/reference/telemetry.md`` lists every
span, attribute and metric.
"""

from __future__ import annotations

from snakepit_bridge.telemetry.instruments import Meter, Span, Tracer

__all__ = ["TELEMETRY", "Meter", "Span", "Telemetry", "Tracer"]


class Telemetry:
    """What this process records with.

    Attributes:
        tracer: records spans.
        meter: records metrics.
    """

    def __init__(self) -> None:
        self.tracer = Tracer()
        self.meter = Meter()


TELEMETRY = Telemetry()
"""This process's telemetry; off until :func:`snakepit_bridge.telemetry.setup.start` is called."""
