"""Which of DSPy's optimizers run on the fleet, and how each is given a metric, its data and its concurrency."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from snakepit_bridge.client.optimization.few_shot import adopt_instance, check_options, is_few_shot
from snakepit_bridge.exceptions import OptimizationError

# Those whose result is no program of its own, and why.
_NOT_REMOTE: Mapping[str, str] = {
    "BootstrapFinetune": "it trains weights, and the fleet has LM profiles; run it here and declare its model there",
    "BetterTogether": "it trains weights, and the fleet has LM profiles; run it here and declare its model there",
    "GRPO": "it trains weights, and the fleet has LM profiles; run it here and declare its model there",
    "Ensemble": "it puts programs together without trying any; compile it here and register the result",
}
# The attributes under which optimizers keep their metric.
_METRICS = ("metric", "metric_fn")


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """An optimizer as it was given.

    Attributes:
        optimizer: an instance, a class of ``dspy.teleprompt`` or one of one's own, or the name of DSPy's.
        options: what its constructor takes besides the metric; none for an instance.
        compile_options: what its ``compile`` takes besides the program and its data.
    """

    optimizer: Any
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    compile_options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def build(
        self, metric: Callable[..., Any], watch: Callable[[Any], Any], trainset: Sequence[Any], *, in_flight: int
    ) -> Any:
        """Return the optimizer, whose metric is watched unless it travels with the program.

        Args:
            metric: for one that is constructed here, and for an instance without one.
            watch: returns the metric that is to take the place of one.
            trainset: for one that takes its examples when it is constructed.
            in_flight: predictions at a time, unless the optimizer says how many threads it has.

        Raises:
            OptimizationError: it can't run on the fleet, or can't be constructed.
        """
        found = self._find()
        if not isinstance(found, type) and self.options:
            raise OptimizationError("options", "they are of an optimizer's constructor, and this one is an instance")
        if is_few_shot(found):
            return self._build_few_shot(found, metric, trainset)
        if isinstance(found, type):
            found = self._construct(found, metric=metric)
        name = _metric_name(found)
        setattr(found, name, watch(getattr(found, name) or metric))
        if getattr(found, "num_threads", in_flight) is None:
            found.num_threads = in_flight
        return found

    def check(self) -> None:
        """Check that the optimizer can run on the fleet, as far as is known without its metric.

        Raises:
            OptimizationError: it can't.
        """
        self._find()

    def compile(
        self, optimizer: Any, student: Any, trainset: Sequence[Any], valset: Sequence[Any] | None, *, in_flight: int
    ) -> Any:
        """Return the program that the optimizer finds.

        Raises:
            OptimizationError: it takes no validation set, and one is given.
        """
        accepted = inspect.signature(optimizer.compile).parameters
        given: dict[str, Any] = dict(self.compile_options)
        if "trainset" in accepted:
            given = {"trainset": list(trainset), **given}
        if valset is not None and "valset" not in accepted:
            raise OptimizationError("valset", f"{type(optimizer).__name__} takes none; give it all in the trainset")
        if valset is not None:
            given["valset"] = list(valset)
        if "eval_kwargs" in accepted:  # COPRO takes its concurrency here
            defaults = {"num_threads": in_flight, "display_progress": False, "display_table": 0}
            given["eval_kwargs"] = {**defaults, **given.get("eval_kwargs", {})}
        return optimizer.compile(student, **given)

    def _find(self) -> Any:
        found: Any = self.optimizer
        if isinstance(found, str):
            found = getattr(dspy.teleprompt, found, None)
        kind: Any = found if isinstance(found, type) else type(found)
        if not issubclass(kind, Teleprompter):
            raise OptimizationError(
                f"the optimizer {self.optimizer!r}", "it must be a dspy Teleprompter, its class or the name of DSPy's"
            )
        for base in kind.__mro__:
            if base.__name__ in _NOT_REMOTE:
                raise OptimizationError(f"the optimizer {kind.__name__}", _NOT_REMOTE[base.__name__])
        if getattr(found, "enable_tool_optimization", False) or self.options.get("enable_tool_optimization"):
            raise OptimizationError("enable_tool_optimization", "tools are code of the workers, and can't be changed")
        return found

    def _build_few_shot(self, found: Any, metric: Callable[..., Any], trainset: Sequence[Any]) -> Any:
        if not isinstance(found, type):
            return adopt_instance(found, metric, trainset)
        check_options({**self.options, "metric": metric}, trainset)
        return self._construct(found, metric=metric, trainset=list(trainset))

    def _construct(self, kind: type, **given: Any) -> Any:
        try:
            return kind(**given, **self.options)
        except Exception as exc:
            raise OptimizationError(f"the optimizer {kind.__name__}", f"it can't be constructed: {exc}") from exc


def _metric_name(optimizer: Any) -> str:
    for name in _METRICS:
        if hasattr(optimizer, name):
            return name
    raise OptimizationError(
        f"the optimizer {type(optimizer).__name__}", f"it has no attribute {' or '.join(_METRICS)} to watch"
    )
