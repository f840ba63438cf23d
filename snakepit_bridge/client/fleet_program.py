"""FleetProgram: a registered program as a DSPy module, so that a local DSPy program can use the fleet as a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dspy

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet_prediction import FleetPrediction
    from snakepit_bridge.client.handle import Handle


class FleetProgram(dspy.Module):
    """Runs each call on the fleet; made by :meth:`Fleet.program`.

    Args:
        submit: :meth:`Fleet.submit` of the fleet that runs it.
        reference: the registered program.
        options: its keyword arguments.
    """

    def __init__(self, submit: Callable[..., Handle], reference: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._submit = submit
        self._reference = reference
        self._options = dict(options)

    def forward(self, **inputs: Any) -> FleetPrediction:
        """Submit the inputs and wait for the prediction."""
        return self._submit(self._reference, inputs, **self._options).get()

    async def aforward(self, **inputs: Any) -> FleetPrediction:
        """Submit the inputs and await the prediction."""
        return await self._submit(self._reference, inputs, **self._options)
