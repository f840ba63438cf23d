"""Metrics on a worker: score a prediction once its program has run, under the same LM, limits and deadline.

A metric is found by its reference before its prediction's program is called, so that one that can't be used costs no LM
call. Its LM calls are the prediction's: they count for its cost, wait for its limits and end with it. What goes wrong
while it scores is stored in place of the score, and the prediction keeps its outputs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import dspy
from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from snakepit_bridge.costs.usage import LMUsage, sum_usage
from snakepit_bridge.dspy_integration.cached_adapter import SHARED_ADAPTER
from snakepit_bridge.evaluations.metric import MetricSpec, PinnedMetric
from snakepit_bridge.evaluations.python_metric import PythonMetric
from snakepit_bridge.evaluations.score_values import MetricScore
from snakepit_bridge.exceptions import (
    BridgeError,
    DeadlineExceededError,
    MetricError,
    PredictionCancelledError,
    PredictionFailedError,
    copy_error,
    error_text,
)
from snakepit_bridge.process.frames import mark_coroutine
from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache
from snakepit_bridge.process.threads import run_in_user_thread
from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.programs.codec import encode_outputs, revive_inputs
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.protocol.messages import DESCRIBE_METRIC, PredictionRequest, Requirement, Result
from tasks import DELIVERY
from tasks.errors import translate_error
from tasks.prediction_context import ContainedCoroutine, PredictionContext, activate
from tasks.response_cache.parsed import share_answers
from tasks.response_cache.single_flight import AnswerCache

_MAX_METRICS = 256
_MAX_PROBLEM_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class ScoredExample:
    """An example and its prediction, as a metric gets them.

    Attributes:
        inputs, labels: the example's fields as JSON values.
        prediction: as the program returned it.
        outputs: the same as JSON values.
    """

    inputs: Mapping[str, Any]
    labels: Mapping[str, Any]
    prediction: Any
    outputs: Mapping[str, Any]


Scorer = Callable[[BoundProgram, ScoredExample], Awaitable[MetricScore]]
"""Scores a prediction of a bound program."""

BindJudge = Callable[[PredictionRequest], Awaitable[BoundProgram]]
"""Returns the program of a request bound to the revision that the request requires."""


class Metrics:
    """The metrics of a process.

    Args:
        allowed: the packages that metrics may come from, besides DSPy's own metrics.
    """

    def __init__(self, allowed: AllowedImports) -> None:
        self._allowed = allowed
        self._loaded: ThreadSafeLRUCache[str, PythonMetric] = ThreadSafeLRUCache(_MAX_METRICS)

    async def load(self, metric: MetricSpec) -> PythonMetric:
        """Return the function or object that a metric names; one of a class is built once.

        Raises:
            MetricError: it isn't allowed, can't be imported or built, or can't be called as a metric.
        """
        key = repr((metric.reference, metric.name, sorted(metric.arguments.items()), bool(metric.version)))
        found = self._loaded.get(key)
        if found is None:
            # A package's first import may take seconds.
            loaded = await run_in_user_thread(PythonMetric.load, metric, self._allowed)
            found = self._loaded.put_if_absent(key, loaded)
        return found


async def prepare_metric(
    metrics: Metrics, pinned: PinnedMetric, request: PredictionRequest, bind_judge: BindJudge
) -> Scorer:
    """Return what scores by a metric, before its prediction runs.

    Args:
        metrics: the process's.
        pinned: the metric at its version.
        request: the prediction's.
        bind_judge: binds a judging program.

    Raises:
        MetricError: the metric can't be used here, or is here in another version.
        BridgeError: its judging program can't be bound.
    """
    metric = pinned.metric
    if metric.program is None:
        loaded = await metrics.load(metric)
        if not metric.version and loaded.content != pinned.content:
            problem = "this worker has another version of its source; deploy the same package to all of them"
            raise MetricError(metric.name, problem)
        return _PythonScorer(metric, loaded)
    required = Requirement.of(exactly=pinned.token or None)
    judging = replace(request, program=metric.program, session=pinned.session, requirement=required, metric=None)
    return _JudgeScorer(metric, await bind_judge(judging))


class _PythonScorer:
    def __init__(self, metric: MetricSpec, loaded: PythonMetric) -> None:
        self._metric = metric
        self._loaded = loaded

    async def __call__(self, bound: BoundProgram, scored: ScoredExample) -> MetricScore:
        name = self._metric.name
        fields = {**revive_inputs(name, scored.labels), **revive_inputs(name, scored.inputs)}
        example = dspy.Example(fields).with_inputs(*scored.inputs)
        # As the program itself is run; see BoundProgram.acall.
        adapter = dspy.settings.adapter or SHARED_ADAPTER
        with dspy.context(lm=bound.choice.lm, adapter=adapter, trace=[], disable_history=True):
            return await self._loaded.score(example, scored.prediction)


class _JudgeScorer:
    def __init__(self, metric: MetricSpec, judge: BoundProgram) -> None:
        if judge.executes_code:
            raise MetricError(
                metric.name, f"{metric.reference} executes code, which a judge can't; score by a function"
            )
        self._metric = metric
        self._judge = judge

    async def __call__(self, bound: BoundProgram, scored: ScoredExample) -> MetricScore:
        metric, judge = self._metric, self._judge.isolate()
        selected = metric.select(scored.inputs, scored.labels, scored.outputs)
        prediction = await judge.acall(**judge.inputs.decode(judge.program.name, selected))
        outputs = encode_outputs(judge.program.name, prediction)
        if metric.output not in outputs:
            raise MetricError(metric.name, f"{metric.reference} has no output '{metric.output}', only {list(outputs)}")
        feedback = outputs.get(metric.feedback, "") if metric.feedback else ""
        return MetricScore.of({"score": outputs[metric.output], "feedback": feedback}, metric=metric.name)


async def score_prediction(
    scorer: Scorer, cache: AnswerCache, scope: PredictionContext, bound: BoundProgram, scored: ScoredExample
) -> dict[str, Any]:
    """Score a prediction, and return what its result has of it: ``score`` or ``error``, and the metric's usage.

    Args:
        scorer: of the metric.
        cache: the response cache.
        scope: the prediction's context, whose LM calls the metric's are.
        bound: the program that predicted.
        scored: the example and the prediction.

    Raises:
        LMUnavailableError: an LM call of the metric is to be tried again in another delivery of the prediction.
        DeadlineExceededError, PredictionCancelledError: the prediction is no longer wanted.
    """
    before = sum_usage(scope.spending.by_profile.values())
    try:
        # As the program itself is run; see _call_program.
        with activate(scope), nullcontext() if scope.cache is None else share_answers(cache, scope):
            work = mark_coroutine(scope.task_id, cast(Any, scorer(bound, scored)))
            given = await scope.within_deadline(ContainedCoroutine(work, scope.program))
        outcome = given.encode()
    except Exception as exc:  # noqa: BLE001 (metrics may raise anything)
        outcome = _describe_failure(exc, bound)
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if isinstance(exc, SoftTimeLimitExceeded) or scope.is_cancelled or (task is not None and task.cancelling()):
            raise
        outcome = {"error": type(exc).__name__, "problem": "the metric cancelled itself"}
    if scope.tally.deferred is not None:
        raise copy_error(scope.tally.deferred)
    used = _subtract(sum_usage(scope.spending.by_profile.values()), before)
    return outcome | ({"usage": used.encode()} if used.calls else {})


def _describe_failure(raised: Exception, bound: BoundProgram) -> dict[str, Any]:
    """Return the error of a metric as it is stored.

    Raises:
        DeadlineExceededError, PredictionCancelledError: what was raised is one of these.
    """
    error = translate_error(raised, program=bound.program.name, model=bound.choice.lm.model)
    if isinstance(error, (DeadlineExceededError, PredictionCancelledError)):
        raise error
    if isinstance(error, PredictionFailedError):  # what the metric raised itself
        return {"error": error.error, "problem": error.message}
    return {"error": type(error).__name__, "problem": error_text(error)[:_MAX_PROBLEM_CHARACTERS]}


def _subtract(after: LMUsage, before: LMUsage) -> LMUsage:
    counts = {name: getattr(after, name) - getattr(before, name) for name in LMUsage.__dataclass_fields__}
    return LMUsage(**counts)


class HasMetrics(Protocol):
    """The runtime, as this task sees it."""

    @property
    def metrics(self) -> Metrics:
        """The metrics of the process."""
        ...


class HasMetricsRuntime(Protocol):
    """The Celery app, as this task sees it."""

    @property
    def runtime(self) -> HasMetrics:
        """This process's runtime."""
        ...


@shared_task(bind=True, name=DESCRIBE_METRIC, typing=False, throws=(BridgeError,), **DELIVERY)
async def describe_metric(self: Task, metric: Any) -> dict[str, Any]:
    """Return the digest of a metric's source as the one output of a result, so that a client knows its version.

    Args:
        self: the task.
        metric: a pinned metric in its JSON form, whose digest isn't known yet.
    """
    runtime = cast(HasMetricsRuntime, self.app).runtime
    loaded = await runtime.metrics.load(PinnedMetric.decode(metric).metric)
    return Result({"content": loaded.content}, {}).encode()
