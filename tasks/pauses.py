"""How long a prediction whose LM is unavailable waits before it is tried again."""

from __future__ import annotations

import random

from snakepit_bridge.exceptions import LMUnavailableError
from tasks.runtime import Runtime

# A provider may ask for any pause; past this many seconds the task would rather fail and say so.
_LONGEST_S = 60.0


def pause_s(runtime: Runtime, away: LMUnavailableError, attempt: int) -> float:
    """Doubles with each attempt, with jitter so that tasks which failed together don't return together."""
    backoff = runtime.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
    return min(max(backoff, away.retry_after_s), _LONGEST_S)
