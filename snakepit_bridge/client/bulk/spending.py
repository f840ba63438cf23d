"""SpendLimit: how many lines a bulk run may have in flight, so that it ends at a sum of money."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from snakepit_bridge.client.bulk.checkpoint import BulkState

# So many lines are in flight at most until as many have said what they cost.
_FIRST_LINES = 20


@dataclass(frozen=True, slots=True)
class SpendLimit:
    """A limit of what a run may cost.

    What is in flight is expected to cost as much each as what has ended.

    Attributes:
        max_usd: the most that it may cost, what earlier processes of the run have spent included; None for no limit.
    """

    max_usd: Decimal | None

    def count_allowed(self, state: BulkState, in_flight: int) -> int | None:
        """Return how many more lines may be sent now; None if there is no limit."""
        if self.max_usd is None:
            return None
        left = self.max_usd - state.cost_usd
        if left <= 0:
            return 0
        if state.priced < _FIRST_LINES:
            return max(0, _FIRST_LINES - in_flight)
        if not state.cost_usd:
            return None
        return max(0, int(left * state.priced / state.cost_usd) - in_flight)
