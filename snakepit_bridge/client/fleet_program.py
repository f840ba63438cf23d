"""FleetProgram: a registered program as a DSPy module, so that a local DSPy program can use the fleet as a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dspy

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet import Fleet
    from snakepit_bridge.client.fleet_prediction import FleetPrediction


class FleetProgram(dspy.Module):
    """Runs each call on the fleet; made by :meth:`Fleet.program`.

    Args:
        fleet: where it runs.
        reference: the registered program.
        options: what :meth:`Fleet.submit` takes.
    """

    def __init__(self, fleet: Fleet, reference: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._fleet = fleet
        self._reference = reference
        self._options = dict(options)

    def forward(self, **inputs: Any) -> FleetPrediction:
        """Submits the inputs and waits for the prediction."""
        return self._fleet.submit(self._reference, inputs, **self._options).get()

    async def aforward(self, **inputs: Any) -> FleetPrediction:
        """Submits the inputs and awaits the prediction."""
        return await self._fleet.submit(self._reference, inputs, **self._options)
