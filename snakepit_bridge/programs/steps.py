"""The steps of a program: each call of a predictor, in DSPy's trace, with the LM usage of that call alone.

DSPy gives each call of a module a list of the modules that called it. The list of a predictor's call is seen both
where an LM call adds its usage and where the call is traced, which is how they are joined, also where calls run at the
same time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Self, cast

import dspy
from dspy.utils.usage_tracker import UsageTracker

from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.programs.codec import encode_outputs, encode_values

WHOLE = "self"
"""The path of a program that is a predictor itself."""


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


class StepRecorder(list[Any]):
    """DSPy's trace of one prediction, which also remembers which call each entry is of.

    Attributes:
        module: the module that runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.module: Any = None
        self._calls: dict[int, tuple[Any, Any]] = {}
        self._usage_of_calls: dict[int, tuple[Any, SharedUsage]] = {}

    def append(self, entry: Any, /) -> None:
        """Add an entry of the running predictor's call."""
        super().append(entry)
        # Kept as well, so that no other object gets its id.
        self._calls[id(entry)] = entry, dspy.settings.caller_modules

    def add_usage(self, lm: str, entry: dict[str, Any]) -> None:
        """Add the usage of one LM call to that of the running predictor's call."""
        callers = dspy.settings.caller_modules
        known = self._usage_of_calls.setdefault(id(callers), (callers, SharedUsage()))
        known[1].add_usage(lm, entry)

    def encode(self, program: str) -> list[dict[str, Any]]:
        """Return the steps as JSON values, in the order in which they ended.

        Those of predictors that aren't the program's own, as where a call makes one for itself, are left out, as DSPy's
        optimizers do.

        Args:
            program: name for errors.

        Raises:
            PredictionFailedError: an input or an output of a step has no JSON form.
        """
        paths = {id(predictor): path or WHOLE for path, predictor in predictors(self.module)}
        return [self._encode_step(program, paths[id(entry[0])], entry) for entry in self if id(entry[0]) in paths]

    def _encode_step(self, program: str, path: str, entry: Any) -> dict[str, Any]:
        _, inputs, outputs = entry
        _, callers = self._calls.get(id(entry), (None, None))
        _, usage = self._usage_of_calls.get(id(callers), (None, None))
        return {
            "predictor": path,
            "inputs": encode_values(program, cast("Mapping[str, Any]", inputs)),
            "outputs": encode_outputs(program, outputs),
            "usage": {} if usage is None else usage.get_total_tokens(),
        }


class RecordedUsage(SharedUsage):
    """The usage of a prediction whose steps are recorded.

    Args:
        steps: gets the usage of each call as well.
    """

    def __init__(self, steps: StepRecorder) -> None:
        super().__init__()
        self._steps = steps

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Add the usage of one LM call."""
        super().add_usage(lm, usage_entry)
        self._steps.add_usage(lm, usage_entry)
