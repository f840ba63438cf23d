"""Replay: a finished prediction made again under its exact revision and program version, beside the first one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet_prediction import FleetPrediction


@dataclass(frozen=True, slots=True)
class Replay:
    """A prediction and its repetition.

    Attributes:
        inputs: what was asked both times.
        first: the prediction as it was stored.
        again: the one made now.
    """

    inputs: Mapping[str, Any]
    first: FleetPrediction
    again: FleetPrediction

    @property
    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Return output field to (first, again), where the two differ; an LM may well answer differently."""
        first, again = dict(self.first.items()), dict(self.again.items())
        names = [*first, *(name for name in again if name not in first)]
        return {name: (first.get(name), again.get(name)) for name in names if first.get(name) != again.get(name)}
