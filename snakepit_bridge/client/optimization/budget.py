"""What an optimization may cost, and what it has cost so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of an optimization, which ends with the best program so far when one is reached.

    Attributes:
        max_predictions: of the program; None for no limit.
        max_usd: of its LM calls, as far as they have prices; None for no limit.
        max_s: seconds from its start; None for no limit.
    """

    max_predictions: int | None = None
    max_usd: float | None = None
    max_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_predictions", "max_usd", "max_s"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} is above 0, or None for no limit; got {limit!r}")


class BudgetSpentError(BaseException):
    """A limit of an optimization is reached.

    It isn't an ``Exception``: optimizers take those for failures of the program, and go on.
    """


class Spent:
    """What an optimization has spent. Safe in threads.

    Args:
        budget: its limits.
        elapsed_s: seconds that it has run before, in another process.
        own_usd: returns what the optimizer's own LM calls have cost.
    """

    def __init__(
        self, budget: Budget, *, elapsed_s: float = 0.0, own_usd: Callable[[], Decimal] = lambda: Decimal(0)
    ) -> None:
        self._read_own_usd = own_usd
        self._budget = budget
        self._began = time.monotonic() - elapsed_s
        self._lock = threading.Lock()
        self.predictions = 0
        self._predictions_usd = Decimal(0)
        self.reason = ""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def begin_prediction(self) -> None:
        """Count one more prediction.

        Raises:
            BudgetSpentError: a limit is reached; it says which.
        """
        with self._lock:
            self.reason = self.reason or self._find_limit()
            if self.reason:
                raise BudgetSpentError(self.reason)
            self.predictions += 1

    def add_cost(self, cost_usd: str | None) -> None:
        """Add what a prediction cost, as its provenance has it."""
        with self._lock:
            self._predictions_usd += Decimal(cost_usd or 0)

    @property
    def usd(self) -> Decimal:
        """What predictions, and the optimizer's own LM calls as far as they are counted, have cost."""
        return self._predictions_usd + self.own_usd

    @property
    def own_usd(self) -> Decimal:
        """The part of the optimizer's own LM calls."""
        return self._read_own_usd()

    def stop(self, reason: str) -> None:
        """End the optimization with its next prediction.

        Args:
            reason: what ends it.
        """
        with self._lock:
            self.reason = self.reason or reason

    def _find_limit(self) -> str:
        budget = self._budget
        if budget.max_predictions is not None and self.predictions >= budget.max_predictions:
            return f"{budget.max_predictions} predictions were made"
        if budget.max_usd is not None and self.usd >= Decimal(str(budget.max_usd)):
            return f"{self.usd:f} of {budget.max_usd:g} USD were spent"
        if budget.max_s is not None and self.elapsed_s >= budget.max_s:
            return f"{budget.max_s:g} s have passed"
        return ""
