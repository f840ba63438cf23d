"""Metrics of the fleet as a whole, which gateways and refreshers read from Redis and export."""

from workers.fleet_metrics.exporter import FleetMetrics

__all__ = ["FleetMetrics"]
