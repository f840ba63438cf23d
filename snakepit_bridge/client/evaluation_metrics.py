"""The metric of an evaluation, at its version: on workers by reference, or a function of the client's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from snakepit_bridge.client.evaluation_arms import ArmResolver
from snakepit_bridge.client.evaluation_lm import describe_lm
from snakepit_bridge.client.prediction_client import PredictionClient
from snakepit_bridge.evaluations.metric import PROGRAM_PREFIX, MetricSpec, PinnedMetric
from snakepit_bridge.evaluations.metric_source import digest_source
from snakepit_bridge.evaluations.python_metric import PythonMetric, check_callable
from snakepit_bridge.exceptions import MetricError
from snakepit_bridge.process.threads import run_in_user_thread
from snakepit_bridge.programs.imports import AllowedImports, import_path
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, DESCRIBE_METRIC

Place = Literal["workers", "client"]
"""Where a metric runs."""

GivenMetric = str | MetricSpec | Callable[..., Any]
"""A metric by reference, or a function."""

_OWN_FUNCTION = "client"


@dataclass(frozen=True, slots=True)
class ChosenMetric:
    """A metric at its version, and where it runs.

    Attributes:
        pinned: the metric at its version.
        function: what the client calls; None if workers score.
    """

    pinned: PinnedMetric
    function: PythonMetric | None = None

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.pinned.metric.name

    @property
    def place(self) -> Place:
        """Where it runs."""
        return "workers" if self.function is None else "client"


async def choose_metric(
    client: PredictionClient,
    resolver: ArmResolver,
    metric: GivenMetric,
    *,
    place: Place | None,
    version: str = "",
    wait_s: float,
) -> ChosenMetric:
    """Return a metric at its version.

    Args:
        client: by which a worker is asked for the version of its code.
        resolver: finds judging programs and the revisions that they run under.
        metric: the metric.
        place: where it runs; None for the client if it is a function, and for workers if it is a reference.
        version: what tells the versions of a function apart; empty for the digest of its source.
        wait_s: seconds to wait for a worker.

    Raises:
        MetricError: it can't be used, here or on the workers.
        ProgramNotFoundError: its judging program isn't registered.
        PredictionTimeoutError: no worker answers.
        StoreUnavailableError: Redis is away.
    """
    if not isinstance(metric, (str, MetricSpec)):
        if place != "workers":
            return _choose_function(metric, version)
        metric = _name_function(metric, version)
    spec = MetricSpec.parse(metric)
    spec = replace(spec, version=version or spec.version)
    if spec.program is not None:
        if place == "client":
            raise MetricError(spec.name, "a judging program runs on workers; leave out where='client'")
        return ChosenMetric(await _pin_judge(client, resolver, spec, spec.program, wait_s))
    if place == "client":
        # A package's first import may take seconds.
        loaded = await run_in_user_thread(PythonMetric.load, spec, AllowedImports(client.allowed_packages))
        return ChosenMetric(PinnedMetric(spec, loaded.content), loaded)
    # In a thread: sending blocks.
    task_id = await asyncio.to_thread(client.send_task, DESCRIBE_METRIC, [PinnedMetric(spec, "").encode()])
    described = await client.results.wait(task_id, wait_s, client.results.reply_channel)
    return ChosenMetric(PinnedMetric(spec, str(described.outputs["content"])))


async def _pin_judge(
    client: PredictionClient, resolver: ArmResolver, spec: MetricSpec, program: str, wait_s: float
) -> PinnedMetric:
    """Return a judging program at its version, under the present revision of the default session."""
    # Not under the session that is evaluated, so that all arms are judged alike.
    arm = await resolver.resolve(program, DEFAULT_SESSION)
    pinned = replace(spec, reference=f"{PROGRAM_PREFIX}{arm.reference}")
    lm_digest = await describe_lm(client, arm.reference, arm.session, arm.token, wait_s)
    under = f"{arm.values_digest} {lm_digest}"
    return PinnedMetric(pinned, arm.program.digest, arm.session, arm.token, under)


def _choose_function(metric: Callable[..., Any], version: str) -> ChosenMetric:
    name = _name_of(metric)
    check_callable(metric, name=name)
    content = "" if version else digest_source(metric, name=name)
    spec = MetricSpec.parse(MetricSpec(f"{_OWN_FUNCTION}:{name}", name, version=version))
    return ChosenMetric(PinnedMetric(spec, content), PythonMetric(name, metric, content))


def _name_function(metric: Callable[..., Any], version: str) -> MetricSpec:
    """Return the reference by which workers find a function."""
    name = _name_of(metric)
    path = import_path(metric) if hasattr(metric, "__qualname__") else ""
    if not path or "<" in path or path.startswith("__main__:"):
        problem = "workers can't find it; define it at the top of a module that they have, or score in the client"
        raise MetricError(name, problem)
    return MetricSpec(path, name, version=version)


def _name_of(metric: object) -> str:
    name: str = getattr(metric, "__name__", None) or type(metric).__name__
    return name if name.isidentifier() and name.isascii() else "metric"
