"""What an evaluation is given: its examples in any of their forms, and how it is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from snakepit_bridge.client.evaluation_metrics import Place
from snakepit_bridge.client.evaluation_run import OnProgress
from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.evaluations.record_store import KEEP_S, MAX_KEEP_S
from snakepit_bridge.exceptions import EvaluationError

DEFAULT_IN_FLIGHT = 1_000
"""How many examples are on their way at a time, by default."""

GivenDataset = str | Dataset | Sequence[Any]
"""A dataset by reference, a dataset, or examples with their inputs marked."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How evaluations are run; the attributes are the keywords of ``fleet.evaluate``."""

    in_flight: int = DEFAULT_IN_FLIGHT
    where: Place | None = None
    metric_version: str = ""
    failure_score: float = 0.0
    repeat: int = 0
    author: str = ""
    keep_s: int = KEEP_S
    keep_content: bool = True
    on_progress: OnProgress | None = None

    def check(self) -> Self:
        """Return the options if they can be.

        Raises:
            EvaluationError: one of them can't.
        """
        if self.in_flight < 1:
            raise EvaluationError("in_flight", f"at least 1 example is on its way at a time; got {self.in_flight}")
        if self.repeat < 0:
            raise EvaluationError("repeat", f"repetitions count from 0; got {self.repeat}")
        if not 1 <= self.keep_s <= MAX_KEEP_S:
            raise EvaluationError("keep_s", f"a record is kept for 1 to {MAX_KEEP_S} seconds; got {self.keep_s}")
        if not math.isfinite(self.failure_score):
            raise EvaluationError("failure_score", f"it is a finite number; got {self.failure_score}")
        return self
