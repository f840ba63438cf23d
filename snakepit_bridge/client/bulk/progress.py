"""BulkProgress: what is to be seen of a bulk run at a glance."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from snakepit_bridge.client.bulk.checkpoint import BulkState

# The rate is that of the last half a minute, by figures that are taken once a second.
_RATE_S, _INTERVAL_S = 30.0, 1.0


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far a run has come.

    Attributes:
        total: its lines.
        state: what has ended.
        in_flight: lines that are on the fleet now.
        per_s: lines that end in a second, lately.
    """

    total: int
    state: BulkState
    in_flight: int = 0
    per_s: float = 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last line has ended; None while that can't be told."""
        left = self.total - self.state.done
        return left / self.per_s if self.per_s else None

    @property
    def expected_usd(self) -> Decimal | None:
        """What the whole run will cost, if the other lines cost as much; None while that can't be told."""
        if not self.state.priced:
            return None
        return self.state.cost_usd / self.state.priced * (self.total - self.state.failed)


OnProgress = Callable[[BulkProgress], None]
"""Called about once a second, and at the end."""

StopReason = Literal["", "limit", "stalled"]
"""Why a run has stopped before its last line: its limit of spending, or because nothing ended any more."""


@dataclass(frozen=True, slots=True)
class BulkReport:
    """How a run has ended.

    Attributes:
        total: its lines.
        done: those that have ended, in this process or an earlier one, and ``failed`` of them with an error.
        errors: class of error to the lines that ended with it, and ``examples`` the first of each.
        cost_usd: what the answered ones cost together, as far as that is known; of ``unpriced`` ones it isn't.
        seconds: how long this process took.
        stopped: why it has stopped before its last line; empty if it hasn't.
    """

    total: int
    done: int
    failed: int
    errors: Mapping[str, int]
    cost_usd: Decimal
    unpriced: int
    seconds: float
    stopped: StopReason = ""
    examples: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def is_complete(self) -> bool:
        """Whether every line has ended."""
        return self.done == self.total


class RateMeter:
    """Measures how many lines end in a second.

    Args:
        done: how many had ended before.
    """

    def __init__(self, done: int) -> None:
        self._taken_at = time.monotonic()
        self._counts = deque([(self._taken_at, done)])

    def is_due(self) -> bool:
        """Return whether the next count is due."""
        return time.monotonic() - self._taken_at >= _INTERVAL_S

    def count(self, done: int) -> float:
        """Take how many have ended by now, and return the rate."""
        self._taken_at = time.monotonic()
        self._counts.append((self._taken_at, done))
        while len(self._counts) > 2 and self._taken_at - self._counts[0][0] > _RATE_S:
            self._counts.popleft()
        began, before = self._counts[0]
        return (done - before) / (self._taken_at - began) if self._taken_at > began else 0.0
