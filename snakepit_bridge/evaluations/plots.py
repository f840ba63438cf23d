"""What the reports have in common: their templates, and the scales of their plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

WIDTH, LEFT, RIGHT = 720.0, 150.0, 660.0
"""The width of a plot, and the ends of its horizontal scale, in pixels."""


def render(template: str, **values: Any) -> str:
    """Return a report as HTML.

    Args:
        template: the file's name.
        **values: what it shows.
    """
    environment = Environment(
        loader=PackageLoader("snakepit_bridge.evaluations", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(width=WIDTH, left=LEFT, right=RIGHT, **values)


@dataclass(frozen=True, slots=True)
class PlotAxis:
    """A linear scale of a plot.

    Attributes:
        low, high: the values at its ends.
        start, end: their positions in pixels.
    """

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return a value's position in pixels."""
        span = self.high - self.low
        share = 0.5 if not span else (value - self.low) / span
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Return positions and texts of evenly spaced values."""
        values = [self.low + step * (self.high - self.low) / count for step in range(count + 1)]
        return [(self.place(value), f"{value:.4g}") for value in values]


def choose_axis(values: Sequence[float]) -> PlotAxis:
    """Return a horizontal scale with round ends, on which all values are."""
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(spread))
    return PlotAxis(math.floor(low / step) * step, math.ceil(high / step) * step, LEFT, RIGHT)
