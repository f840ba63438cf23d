"""Token usage of all of a prediction's LM calls, in any thread or task."""

from __future__ import annotations

import threading
from typing import Any, Self

from dspy.utils.usage_tracker import UsageTracker


class SharedUsage(UsageTracker):
    """DSPy's usage tracker, shared by all threads of a prediction.

    ``dspy.Parallel`` gives each of its threads a copy, and the copies are never summed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Add the usage of one LM call."""
        with self._lock:
            super().add_usage(lm, usage_entry)

    def get_total_tokens(self) -> dict[str, Any]:
        """Return the current token counts by model."""
        with self._lock:
            return super().get_total_tokens()
