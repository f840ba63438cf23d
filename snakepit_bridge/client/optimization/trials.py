"""The trials of an optimization: each variant that was scored, and how it did."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from snakepit_bridge.client.optimization.budget import Spent
from snakepit_bridge.evaluations.optimizations import TrialRecord
from snakepit_bridge.programs.spec import ProgramSpec

_VARIANT = "_dspex_variant"
_MAX_INSTRUCTIONS = 2_000


@dataclass(slots=True)
class Trial:
    """One variant of a program.

    Attributes:
        digest: of its spec.
        spec: the spec.
        number: in the order in which variants were tried first, from 1.
        scores: example, by its number in the optimization, to score.
        predictions, usd, elapsed_s: what the optimization had spent when it tried the variant first.
    """

    digest: str
    spec: ProgramSpec = field(repr=False)
    number: int
    scores: dict[int, float] = field(default_factory=dict[int, float])
    predictions: int = 0
    usd: str = "0"
    elapsed_s: float = 0.0

    @property
    def mean(self) -> float:
        """The mean score; 0 without any."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else 0.0

    def describe(self) -> TrialRecord:
        """Return the trial as the record of its optimization has it."""
        demos, instructions = 0, dict[str, str]()
        for path, saved in (self.spec.state or {}).items():
            parts = cast("Mapping[str, Any]", saved)
            demos += len(parts.get("demos") or ())
            text = (parts.get("signature") or {}).get("instructions")
            if isinstance(text, str):
                instructions[path] = text[:_MAX_INSTRUCTIONS]
        spent = self.predictions, self.usd, round(self.elapsed_s, 3)
        return TrialRecord(self.number, self.digest, self.mean, len(self.scores), *spent, demos, instructions)


class Trials:
    """All trials of one optimization. Safe in threads.

    Args:
        examples: those that programs are scored on.
    """

    def __init__(self, examples: Sequence[Any]) -> None:
        self._numbers = {_identify(example): number for number, example in enumerate(examples)}
        self._trials: dict[str, Trial] = {}
        self._lock = threading.Lock()

    def add(self, digest: str, spec: ProgramSpec, spent: Spent) -> None:
        """Note a variant that is tried, and what was spent before."""
        with self._lock:
            if digest not in self._trials:
                costs = spent.predictions, f"{spent.usd:f}", spent.elapsed_s
                self._trials[digest] = Trial(digest, spec, len(self._trials) + 1, {}, *costs)

    def watch(self, metric: Callable[..., Any]) -> Callable[..., Any]:
        """Return a metric that does the same, and notes each score of a prediction of a trial."""

        def observed(example: Any, prediction: Any, *args: Any, **kwargs: Any) -> Any:
            score = metric(example, prediction, *args, **kwargs)
            self._note(example, prediction, score)
            return score

        observed.__name__ = getattr(metric, "__name__", type(metric).__name__)
        observed.__signature__ = _signature(metric)  # type: ignore[attr-defined]
        return observed

    def listed(self) -> list[Trial]:
        """Return the trials that have scores, in the order in which they were tried."""
        with self._lock:
            return [trial for trial in self._trials.values() if trial.scores]

    def describe(self) -> tuple[TrialRecord, ...]:
        """Return the trials that have scores as the record of the optimization has them."""
        with self._lock:
            return tuple(trial.describe() for trial in self._trials.values() if trial.scores)

    def best(self) -> Trial | None:
        """Return the trial of the best mean among those that were scored on most examples; None if there is none."""
        with self._lock:
            found = [trial for trial in self._trials.values() if trial.scores]
            if not found:
                return None
            most = max(len(trial.scores) for trial in found)
            whole = [trial for trial in found if 2 * len(trial.scores) > most]
            return max(whole, key=lambda trial: (trial.mean, len(trial.scores), -trial.number))

    def _note(self, example: Any, prediction: Any, score: Any) -> None:
        trial = self._trials.get(getattr(prediction, _VARIANT, ""))
        number = self._numbers.get(_identify(example))
        value = to_number(score)
        if trial is not None and number is not None and value is not None:
            with self._lock:
                trial.scores[number] = value


def _identify(example: Any) -> str:
    """Return an example as text, since optimizers copy examples."""
    return json.dumps(example.toDict(), default=repr, sort_keys=True)


def mark_variant(prediction: Any, digest: str) -> None:
    """Note on a prediction which variant it is of."""
    vars(prediction)[_VARIANT] = digest


def to_number(score: Any) -> float | None:
    """Return a metric's value as a number: one itself, or the ``score`` of one with feedback; None for others."""
    value: Any = score.get("score") if isinstance(score, Mapping) else getattr(score, "score", score)
    return float(value) if isinstance(value, (bool, int, float)) else None


def _signature(metric: Callable[..., Any]) -> Any:
    """Return a metric's signature, which GEPA looks at."""
    return inspect.signature(metric)
