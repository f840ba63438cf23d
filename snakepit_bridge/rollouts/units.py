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


def format_duration(seconds: float) -> str:
    """Return seconds as people say them: ``45 s``, ``4 min 10 s``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = int(seconds)
    for unit, size, rest, rest_size in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            more = whole % size // rest_size
            return f"{whole // size} {unit}" + (f" {more} {rest}" if more else "")
    return f"{whole} s"


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
