"""Programs of the fleet in Ray: for rows in a lake, or in a cluster of one's own."""

from __future__ import annotations

from snakepit_bridge.ray.program import RayProgram

FleetProgram = RayProgram
"""A program as a callable class for ``ray.data.Dataset.map_batches``."""

__all__ = ["FleetProgram"]
