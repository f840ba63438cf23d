"""One line of the log for each prediction that has ended, as far as there are not too many of them.

A line costs about as much as a hundredth of a prediction, and nobody reads thousands a second. So a process logs a
bounded number per second, failures apart from and ten times as many as successes, and from time to time how many it
has left out.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.process.forking import after_fork_in_child

DEFAULT_MAX_PER_S = 10.0
# Failures are rarer and matter more. They are logged even where successes are not.
_FAILURES_PER_SUCCESS = 10
_MIN_FAILURES_PER_S = 10.0
_SUMMARY_INTERVAL_S = 60.0

_log = logging.getLogger(__name__)
_clock = time.monotonic


@dataclass(frozen=True, slots=True)
class PredictionEnd:
    """How a prediction ended. Neither its inputs and outputs nor the text of its error belong here.

    Attributes:
        task_id: its task.
        outcome: ``ok``, ``failed`` or ``cancelled``.
        error_type: the class of its error; empty for none.
        program: its program.
        duration_s: seconds that the delivery which ended it took; None if it wasn't processed.
        latency_s: seconds since it was submitted; None if unknown.
        usage: its LMs' usage, model to token counts.
        cost_usd: what its LM calls cost; None if unknown.
    """

    task_id: str
    outcome: str
    error_type: str = ""
    program: str = ""
    duration_s: float | None = None
    latency_s: float | None = None
    usage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cost_usd: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of its line; those that are None have no value."""
        return {
            "task_id": self.task_id,
            "program": self.program or None,
            "outcome": self.outcome,
            "error_type": self.error_type or None,
            "duration_s": None if self.duration_s is None else round(self.duration_s, 3),
            "latency_s": None if self.latency_s is None else round(self.latency_s, 3),
            "input_tokens": self._count("prompt_tokens"),
            "output_tokens": self._count("completion_tokens"),
            "cost_usd": self.cost_usd,
        }

    def _count(self, name: str) -> int | None:
        counts = [usage.get(name) for usage in self.usage.values() if isinstance(usage, Mapping)]
        return sum(count for count in counts if isinstance(count, int)) if counts else None

    def __str__(self) -> str:
        details = [f"in {self.duration_s:.3f} s"] if self.duration_s is not None else []
        counts = self.fields()
        if counts["input_tokens"] is not None:
            details.append(f"{counts['input_tokens']} input and {counts['output_tokens']} output tokens")
        if self.cost_usd is not None:
            details.append(f"{self.cost_usd} USD")
        error = f" with {self.error_type}" if self.error_type else ""
        return f"Prediction {self.outcome}{error}{' ' if details else ''}{', '.join(details)}"


class _Budget:
    """A number of lines per second, with a burst of one second's."""

    def __init__(self) -> None:
        self._left = 0.0
        self._filled_at = float("-inf")

    def take(self, per_s: float, now: float) -> bool:
        """Take one line; return False if none is left."""
        most = max(1.0, per_s) if per_s else 0.0
        self._left = min(most, self._left + (now - self._filled_at) * per_s) if per_s else 0.0
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class PredictionLog:
    """Logs how predictions ended.

    Attributes:
        max_per_s: lines about successful predictions per second; ten times as many about others.
        summary_interval_s: seconds between two lines that tell how many were left out.
    """

    def __init__(self) -> None:
        self.max_per_s = DEFAULT_MAX_PER_S
        self.summary_interval_s = _SUMMARY_INTERVAL_S
        self._lock = threading.Lock()
        self._budgets = {True: _Budget(), False: _Budget()}
        self._left_out: Counter[str] = Counter()

    @property
    def is_enabled(self) -> bool:
        """Whether a line could be logged."""
        return _log.isEnabledFor(logging.WARNING)

    def record(self, end: PredictionEnd) -> None:
        """Log how a prediction ended, or count it as left out; may be called from any thread."""
        is_ok = end.outcome == "ok"
        level = logging.WARNING if end.outcome == "failed" else logging.INFO
        if not _log.isEnabledFor(level):
            return
        per_s = self.max_per_s if is_ok else max(_MIN_FAILURES_PER_S, self.max_per_s * _FAILURES_PER_SUCCESS)
        with self._lock:
            is_logged = self._budgets[is_ok].take(per_s, _clock())
            if not is_logged:
                self._leave_out(end.outcome)
        if is_logged:
            _log.log(level, "%s", end, extra=end.fields())

    def flush(self) -> None:
        """Log how many lines were left out since the last time, if any."""
        with self._lock:
            left_out, self._left_out = self._left_out, Counter()
        if left_out:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(left_out.items()))
            _log.info("%d ends of predictions were left out of the log: %s", left_out.total(), counts)

    def reset(self) -> None:
        """Start anew in a forked child, which has left nothing out."""
        self._lock, self._left_out = threading.Lock(), Counter()

    def _leave_out(self, outcome: str) -> None:
        if not self._left_out:
            timer = threading.Timer(self.summary_interval_s, self.flush)
            timer.daemon = True
            # In a context of its own: the line isn't the prediction's that was left out first.
            Context().run(timer.start)
        self._left_out[outcome] += 1


PREDICTION_LOG = PredictionLog()
"""The log of this process's predictions."""

after_fork_in_child(PREDICTION_LOG.reset)
atexit.register(PREDICTION_LOG.flush)
