"""How figures are written for people, by their units: shares as percentages, seconds, dollars and scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping


def format_percent(share: float) -> str:
    """Return a share as a percentage of three digits."""
    return f"{100 * share:.3g} %"


def format_seconds(seconds: float) -> str:
    """Return a latency, below a second in milliseconds."""
    return f"{1_000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"


def format_usd(amount: float) -> str:
    """Return an amount with three digits that are no leading zeros, and without an exponent."""
    if amount >= 1 or not amount:
        return f"${amount:.2f}"
    digits = min(12, 2 - math.floor(math.log10(amount)))
    return f"${amount:.{digits}f}".rstrip("0").rstrip(".")


def format_score(score: float) -> str:
    """Return a score with three digits."""
    return f"{score:.3g}"


FORMATS: Mapping[str, Callable[[float], str]] = {
    "share": format_percent,
    "s": format_seconds,
    "USD": format_usd,
    "score": format_score,
}
"""How a value of each unit is written."""


def format_interval(value: float, low: float, high: float, count: int, unit: str) -> str:
    """Return a measured value with the plausible ones, and how many values it was measured by."""
    show = FORMATS[unit]
    bounds = (show(bound) if math.isfinite(bound) else "∞" for bound in (low, high))
    return f"{show(value)} ({' to '.join(bounds)}) of {count:,}"
