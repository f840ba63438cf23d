"""How many examples of an evaluation have which score, as the positions that a template draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_BINS, _WIDTH, HEIGHT = 10, 400.0, 90.0


@dataclass(frozen=True, slots=True)
class ScoreBar:
    """A bar of the histogram: its place, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """The bars, and the scores at both ends."""

    bars: Sequence[ScoreBar]
    edges: tuple[str, str]
    failed: int


def count_scores(scores: Sequence[float | bool | None]) -> ScoreHistogram | None:
    """Return the histogram of scores; None if there are none.

    Args:
        scores: None for an example that failed.
    """
    values = [float(score) for score in scores if score is not None]
    if not values:
        return None
    low, high = min(0.0, *values), max(1.0, *values)
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int((value - low) / (high - low) * _BINS))] += 1
    slot, step, tallest = _WIDTH / _BINS, (high - low) / _BINS, max(counts)
    bars = [
        ScoreBar(
            slot * number + 2,
            round(HEIGHT - HEIGHT * count / tallest, 1),
            slot - 4,
            round(HEIGHT * count / tallest, 1),
            f"{low + step * number:.3g} to {low + step * (number + 1):.3g}: {count:,}",
        )
        for number, count in enumerate(counts)
        if count
    ]
    return ScoreHistogram(bars, (f"{low:.3g}", f"{high:.3g}"), len(scores) - len(values))
