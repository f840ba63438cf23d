"""Metrics that are Python code: find one by its reference, check that it can score, and call it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from snakepit_bridge.evaluations.metric import DSPY_METRICS, MetricSpec
from snakepit_bridge.evaluations.metric_source import digest_source
from snakepit_bridge.evaluations.score_values import MetricScore
from snakepit_bridge.exceptions import MetricError, error_text
from snakepit_bridge.process.threads import run_in_user_thread
from snakepit_bridge.programs.imports import AllowedImports


@dataclass(frozen=True, slots=True)
class PythonMetric:
    """A function, or an object that can be called, which scores.

    Attributes:
        name: the metric's name.
        function: takes an example and a prediction.
        content: the digest of its source; empty if a version tells its versions apart.
    """

    name: str
    function: Callable[..., Any]
    content: str

    @classmethod
    def load(cls, metric: MetricSpec, allowed: AllowedImports) -> PythonMetric:
        """Return the function that a metric names, or an object of the class that it names.

        Args:
            metric: the metric, no judging program.
            allowed: the packages that it may come from, besides DSPy's own metrics.

        Raises:
            MetricError: it isn't allowed, can't be imported or built, or can't be called as a metric.
        """
        try:
            found = AllowedImports((*allowed.packages, DSPY_METRICS)).find(metric.reference)
        except ValueError as exc:
            raise MetricError(metric.name, str(exc)) from exc.__cause__
        content = "" if metric.version else digest_source(found, name=metric.name)
        arguments = dict(metric.arguments)
        if inspect.isclass(found):
            found, arguments = _build(found, metric), {}
        check_callable(found, name=metric.name, arguments=arguments)
        return cls(metric.name, _with_arguments(found, arguments), content)

    async def score(self, example: Any, prediction: Any) -> MetricScore:
        """Return the score of a prediction; the function runs in a thread, since it may compute or block.

        Args:
            example: a ``dspy.Example``.
            prediction: a ``dspy.Prediction``.

        Raises:
            MetricError: what it returned is no score.
            Exception: whatever it raises.
        """
        returned = await run_in_user_thread(self.function, example, prediction)
        if inspect.isawaitable(returned):
            returned = await returned
        return MetricScore.of(returned, metric=self.name)


def check_callable(metric: Any, *, name: str, arguments: Mapping[str, Any] | None = None) -> None:
    """Check that something can be called with an example and a prediction.

    Args:
        metric: a function or an object.
        name: the metric's name, for the error.
        arguments: further keyword arguments.

    Raises:
        MetricError: it can't.
    """
    if not callable(metric):
        raise MetricError(name, f"it is a {type(metric).__name__}, which can't be called")
    # Read from the class, since DSPy warns of whoever reads an instance's `forward`. Its first parameter is `self`.
    forward = getattr(type(metric), "forward", None) if isinstance(metric, dspy.Module) else None
    try:
        signature = inspect.signature(forward or metric)
    except (TypeError, ValueError):
        return  # it says nothing of its parameters
    try:
        signature.bind(*([None] if forward else []), None, None, **(arguments or {}))
    except TypeError as exc:
        raise MetricError(name, f"it can't be called with an example and a prediction: {exc}") from None


def _build(kind: type, metric: MetricSpec) -> Any:
    try:
        return kind(**metric.arguments)
    except Exception as exc:  # a constructor may raise anything
        problem = f"{metric.reference} can't be built: {type(exc).__name__}: {error_text(exc)}"
        raise MetricError(metric.name, problem) from exc


def _with_arguments(metric: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    return functools.partial(metric, **arguments) if arguments else metric
