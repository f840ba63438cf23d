"""The phases of a prediction as bars behind each other, by the timings of its provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _LEAST = 400.0, 2.0
_PHASES = {
    "queued_ms": "Waited for a worker",
    "snapshot_ms": "Read variables",
    "bind_ms": "Bound them",
    "run_ms": "Ran",
}


@dataclass(frozen=True, slots=True)
class PhaseBar:
    """A phase: its name, how long it took in seconds, and its bar."""

    name: str
    seconds: float
    x: float
    width: float


def plot_phases(timings: Mapping[str, float]) -> Sequence[PhaseBar]:
    """Return the bars of a prediction's phases.

    Args:
        timings: milliseconds by phase, as provenance has them.
    """
    spent = {name: max(0.0, timings.get(phase, 0.0)) for phase, name in _PHASES.items()}
    total, bars, at = sum(spent.values()) or 1.0, list[PhaseBar](), 0.0
    for name, milliseconds in spent.items():
        width = (_WIDTH - _LEAST * len(spent)) * milliseconds / total + _LEAST
        bars.append(PhaseBar(name, milliseconds / 1_000, round(at, 1), round(width, 1)))
        at += width
    return bars
