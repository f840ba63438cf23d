"""Whether bounds leave out the truth at some look, without computing them at each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable


def is_ever_outside(looks: Iterable[tuple[float, Callable[[], bool]]], alpha: float) -> bool:
    """Return whether the bounds of some look leave out the truth.

    By construction they contain it where the martingale at the truth is below ``1 / alpha``. So they are computed only
    where it isn't, and at the last look, to see that they do.

    Args:
        looks: the logarithm of the martingale at the truth, and what computes whether the bounds contain the truth.
        alpha: the probability that they ever leave it out.
    """
    log, contains = 0.0, bool
    for log, contains in looks:
        if log >= -math.log(alpha) and not contains():
            return True
    assert contains(), "the bounds leave out what the martingale hasn't ruled out"
    return False
