"""KNNFewShot: it searches nothing, so its program is described at once, and only checked on the fleet.

What it is given has to travel: each call of its program bootstraps demos on a worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy

from snakepit_bridge.client.evaluation_lm import describe_lm
from snakepit_bridge.client.prediction_client import PredictionClient
from snakepit_bridge.dspy_integration.binding import MODEL
from snakepit_bridge.dspy_integration.knn_few_shot import Vectorizer, check_neighbours, find_teacher_profile
from snakepit_bridge.exceptions import OptimizationError, ProgramSpecError
from snakepit_bridge.programs.constructor_arguments import FUNCTIONS
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.programs.serialize import find_function_path, serialize_module
from snakepit_bridge.programs.spec import MAX_SPEC_BYTES, ProgramSpec

# What belongs to the whole program, and not to a module in it.
_OF_THE_WHOLE: Mapping[str, Any] = {"bindings": {}, "lm": None, "cache": None, "executes_code": False, "journal": None}


def is_few_shot(optimizer: Any) -> bool:
    """Check whether an optimizer, or a class of one, is DSPy's KNNFewShot."""
    kind: Any = optimizer if isinstance(optimizer, type) else type(optimizer)
    return issubclass(kind, dspy.KNNFewShot)


def check_options(options: Mapping[str, Any], trainset: Sequence[Any]) -> None:
    """Check what KNNFewShot is constructed with, before it embeds the train set.

    Args:
        options: what its constructor takes, the metric included.
        trainset: the examples.

    Raises:
        OptimizationError: a part of it can't travel, or doesn't fit; names it.
    """
    metric = options.get("metric")
    if metric is not None:
        _check_metric(metric)
    if "vectorizer" not in options:
        raise OptimizationError("vectorizer", "give a dspy.Embedder, or a function's import path, or a model's name")
    try:
        check_neighbours(options.get("k", 0), trainset)
        vectorizer = Vectorizer.of(options["vectorizer"])
        find_teacher_profile(options.get("teacher_settings") or {})
        if not vectorizer.model:
            find_function_path(vectorizer.embed, "", "vectorizer")
    except ProgramSpecError as exc:
        raise OptimizationError("vectorizer", exc.problem) from exc
    except ValueError as exc:
        raise OptimizationError("the optimizer KNNFewShot", str(exc)) from exc


def adopt_instance(optimizer: Any, metric: Callable[..., Any], trainset: Sequence[Any]) -> Any:
    """Return a KNNFewShot that was given as an instance, with the metric if it has none.

    Raises:
        OptimizationError: a part of it can't travel, or it has another train set.
    """
    if list(optimizer.KNN.trainset) != list(trainset):
        raise OptimizationError("trainset", "the optimizer was constructed with another one")
    few_shot: dict[str, Any] = dict(optimizer.few_shot_bootstrap_args)
    few_shot["metric"] = few_shot.get("metric") or metric
    check_options({**few_shot, "k": optimizer.KNN.k, "vectorizer": optimizer.KNN.embedding}, trainset)
    optimizer.few_shot_bootstrap_args = few_shot
    return optimizer


def _check_metric(metric: Callable[..., Any]) -> None:
    where = f"the metric {getattr(metric, '__name__', type(metric).__name__)}"
    try:
        find_function_path(metric, "", "metric", FUNCTIONS["metric"])
        inspect.signature(metric).bind(None, None, None)
    except ProgramSpecError as exc:
        problem = f"it runs on workers, where each call bootstraps: {exc.problem}"
        raise OptimizationError(where, problem) from exc
    except TypeError as exc:
        raise OptimizationError(where, f"it can't be called with an example, a prediction and a trace: {exc}") from exc
    if inspect.iscoroutinefunction(metric):
        raise OptimizationError(where, "it must return its score, and not a coroutine")


def describe_few_shot(program: Program, module: Any) -> ProgramSpec:
    """Return the spec of what KNNFewShot compiled a program to.

    Args:
        program: the program, which is the student as it is.
        module: what was compiled.

    Raises:
        OptimizationError: it is too large.
        ProgramSpecError: a part of it can't travel.
    """
    base, found = program.spec, serialize_module(module, program=program.name)
    student = base.model_copy(update=dict(_OF_THE_WHOLE))
    whole = {name: getattr(base, name) for name in _OF_THE_WHOLE}
    whole["bindings"] = {
        attribute if attribute in MODEL else f"student.{attribute}": variable
        for attribute, variable in base.bindings.items()
    }
    spec = found.model_copy(update={**whole, "modules": {**found.modules, "student": student}})
    size = len(spec.encode())
    if size > MAX_SPEC_BYTES:
        raise OptimizationError(
            "trainset",
            f"with its vectors the program takes {size} bytes, and {MAX_SPEC_BYTES} are the most; give fewer examples, "
            "or a vectorizer of fewer dimensions",
        )
    return spec


async def check_on_worker(
    client: PredictionClient, program: Program, spec: ProgramSpec, session: str, token: str, wait_s: float
) -> None:
    """Have a worker bind a program without calling it, so that what it lacks is known before it is registered.

    Args:
        client: by which a worker is asked.
        program: what it is to be a version of.
        spec: the program.
        session, token: whose variables it is bound to, and their revision; empty if the session was never published.
        wait_s: seconds to wait for a worker.

    Raises:
        BridgeError: it can't be bound there, for example because its embedder isn't an LM profile.
        PredictionTimeoutError: no worker answers.
        StoreUnavailableError: Redis is away.
    """
    reference = await client.registry.store_variant(program.name, spec)
    await describe_lm(client, str(reference), session, token, wait_s)
