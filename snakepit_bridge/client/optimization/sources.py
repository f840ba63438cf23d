"""What an optimization is given by name: stored datasets, metrics and optimizers by import path, and LMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import dspy

from snakepit_bridge.client.datasets import AsyncDatasets, Datasets
from snakepit_bridge.client.evaluation_metrics import GivenMetric
from snakepit_bridge.client.evaluation_options import GivenDataset
from snakepit_bridge.client.optimization.budget import Budget
from snakepit_bridge.client.optimization.optimizers import OptimizerSpec
from snakepit_bridge.client.optimization.request import OptimizationRequest
from snakepit_bridge.client.resources import FleetResources
from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.dspy_integration.knn_few_shot import Vectorizer
from snakepit_bridge.evaluations.metric import MetricSpec
from snakepit_bridge.evaluations.python_metric import PythonMetric
from snakepit_bridge.exceptions import OptimizationError
from snakepit_bridge.lm.fleet_lm import FleetLM
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.imports import AllowedImports

_VECTORIZER = "vectorizer"
# The options of DSPy's optimizers that are LMs: those that the optimizer asks, and the one that runs the program.
_OWN_LMS, _PROGRAM_LM, _TEACHER = ("prompt_model", "reflection_lm"), "task_model", "teacher_settings"


def load_examples(datasets: Datasets, given: GivenDataset) -> tuple[Sequence[Any], str]:
    """Return examples for DSPy, and what the dataset is called; empty for a list of examples.

    Raises:
        DatasetNotFoundError: no dataset has that reference.
    """
    dataset = datasets.get(given) if isinstance(given, str) else given
    if not isinstance(dataset, Dataset):
        return dataset, ""
    return dataset.examples, str(dataset) if dataset.version else ""


def load_metric(given: GivenMetric, allowed_packages: Sequence[str]) -> tuple[Callable[..., Any], str]:
    """Return a metric that runs in this process, where the optimizer does, and its name.

    Raises:
        MetricError: it can't be imported, or isn't in an allowed package.
        OptimizationError: it is a program.
    """
    if not isinstance(given, (str, MetricSpec)):
        return given, getattr(given, "__name__", type(given).__name__)
    spec = check_metric(given)
    return PythonMetric.load(spec, AllowedImports(tuple(allowed_packages))).function, spec.name


def check_metric(given: str | MetricSpec) -> MetricSpec:
    """Return a metric by reference if an optimizer can call it.

    Raises:
        MetricError: it can't be a metric.
        OptimizationError: it is a program.
    """
    spec = MetricSpec.parse(given)
    if spec.program is not None:
        raise OptimizationError(f"the metric {spec.reference}", "optimizers call a function; give one that runs it")
    return spec


def load_optimizer(given: Any, allowed_packages: Sequence[str]) -> Any:
    """Return an optimizer; one that is given by its import path is imported.

    Raises:
        OptimizationError: it can't be imported, or isn't in an allowed package.
    """
    if not isinstance(given, str) or ":" not in given:
        return given
    try:
        return AllowedImports(tuple(allowed_packages)).find(given)
    except ValueError as exc:
        raise OptimizationError(f"the optimizer {given[:80]}", str(exc)) from exc.__cause__


def name_lms(options: Mapping[str, Any], open_lm: Callable[[str], Any]) -> dict[str, Any]:
    """Return an optimizer's options with LMs in place of their names.

    Args:
        options: what its constructor takes.
        open_lm: returns an LM that the optimizer itself asks. What runs the program is one of the fleet's.
    """
    named = dict(options)
    for key in _OWN_LMS:
        if isinstance(named.get(key), str):
            named[key] = open_lm(named[key])
    if isinstance(named.get(_PROGRAM_LM), str):
        named[_PROGRAM_LM] = FleetLM(named[_PROGRAM_LM])
    teacher: Any = named.get(_TEACHER)
    if isinstance(teacher, Mapping) and isinstance(cast("Mapping[str, Any]", teacher).get("lm"), str):
        named[_TEACHER] = {**teacher, "lm": FleetLM(teacher["lm"])}
    return named


def name_vectorizer(
    options: Mapping[str, Any], allowed_packages: Sequence[str], open_embedder: Callable[[str], Any]
) -> dict[str, Any]:
    """Return an optimizer's options with a vectorizer in place of its name, or of a function, which may return lists.

    Args:
        options: what its constructor takes.
        allowed_packages: where a function that is named by its import path may come from.
        open_embedder: returns what embeds by a model.

    Raises:
        OptimizationError: the function can't be imported, or isn't in an allowed package.
    """
    name: Any = options.get(_VECTORIZER)
    if callable(name) and not isinstance(name, (dspy.Embedder, Vectorizer)):
        return {**options, _VECTORIZER: dspy.Embedder(name, caching=False)}
    if not isinstance(name, str):
        return dict(options)
    if ":" not in name:
        return {**options, _VECTORIZER: open_embedder(name)}
    try:
        function = AllowedImports(tuple(allowed_packages)).find(name)
    except ValueError as exc:
        raise OptimizationError(_VECTORIZER, str(exc)) from exc.__cause__
    return {**options, _VECTORIZER: dspy.Embedder(function, caching=False)}


def build_request(
    fleet: FleetResources,
    program: str,
    trainset: GivenDataset,
    metric: GivenMetric,
    *,
    optimizer: Any,
    options: Mapping[str, Any] | None = None,
    compile_options: Mapping[str, Any] | None = None,
    valset: GivenDataset | None = None,
    session: str,
    token: str = "",
    budget: Budget | None = None,
    in_flight: int,
    priority: int,
    run_id: str,
    wait_s: float | None = None,
    open_lm: Callable[[str], Any] = dspy.LM,
    open_embedder: Callable[[str], Any] = dspy.Embedder,
) -> OptimizationRequest:
    """Return what is optimized, with everything that is given by name loaded.

    Args:
        fleet: where the program and the datasets are.
        program, trainset, metric, optimizer, options, compile_options, valset: as ``fleet.optimize`` takes them.
        session, token, budget, in_flight, priority, run_id, wait_s: of the request.
        open_lm: returns an LM that the optimizer itself asks, by its name.
        open_embedder: returns what embeds the train set, by the name of its model.

    Raises:
        OptimizationError, MetricError: a part of it can't be.
        ProgramNotFoundError, DatasetNotFoundError: what is named isn't stored.
        StoreUnavailableError: Redis is away.
    """
    packages, datasets = (
        fleet.allowed_packages,
        Datasets(AsyncDatasets(fleet.connection, fleet.namespace, fleet.cipher)),
    )
    examples, trainset_name = load_examples(datasets, trainset)
    validating, valset_name = (None, "") if valset is None else load_examples(datasets, valset)
    function, metric_name = load_metric(metric, packages)
    named = name_vectorizer(name_lms(options or {}, open_lm), packages, open_embedder)
    return OptimizationRequest(
        run_blocking(fleet.registry.get(program)),
        examples,
        function,
        OptimizerSpec(load_optimizer(optimizer, packages), named, compile_options or {}),
        validating,
        budget or Budget(),
        session,
        in_flight,
        priority,
        run_id,
        fleet.wait_s if wait_s is None else wait_s,
        token,
        trainset_name,
        valset_name,
        metric_name,
    )
