"""What a prediction's LM calls used, all of them counted, in whichever thread or task a program makes them."""

from __future__ import annotations

import threading
from typing import Any, Self

from dspy.utils.usage_tracker import UsageTracker


class SharedUsage(UsageTracker):
    """DSPy's count of one prediction, which its parts share.

    ``dspy.Parallel`` gives each of its threads a copy, and nobody adds the copies up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Count what one LM call used."""
        with self._lock:
            super().add_usage(lm, usage_entry)

    def get_total_tokens(self) -> dict[str, Any]:
        """Return the model's counts by model, as they are now."""
        with self._lock:
            return super().get_total_tokens()
