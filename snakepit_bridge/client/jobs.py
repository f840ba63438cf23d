"""``fleet.jobs``: evaluations and optimizations that run on workers: start, watch and cancel them from anywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from snakepit_bridge.client.datasets import AsyncDatasets
from snakepit_bridge.client.evaluation_arms import ArmResolver
from snakepit_bridge.client.evaluation_options import EvaluationOptions
from snakepit_bridge.client.prediction_client import PredictionClient
from snakepit_bridge.evaluations.job_store import JobStore
from snakepit_bridge.evaluations.jobs import EvaluationArguments, Job, JobEnd, JobKind, OptimizationArguments
from snakepit_bridge.evaluations.metric import MetricSpec
from snakepit_bridge.exceptions import (
    EvaluationError,
    OptimizationError,
    PredictionCancelledError,
    PredictionTimeoutError,
    SessionNotFoundError,
    StoreUnavailableError,
    error_text,
)
from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, RUN_JOB, code_queue
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.variables.codec import encode_canonical

if TYPE_CHECKING:
    from snakepit_bridge.client.optimization.budget import Budget

LIMIT_S = 86_400.0
"""Seconds for which a job without a budget of time runs at most."""

# An optimization that has spent its time still has to register what it found.
_GRACE_S = 600.0
_PRIORITY = 3
_POLL_INTERVAL_S = 0.5
_PATIENCE_S = 30.0


class AsyncJobs:
    """The jobs of a fleet, for callers that await.

    They wait in the queue of programs that execute code, which workers on prefork take from.

    Args:
        client: by which their tasks are sent.
    """

    def __init__(self, client: PredictionClient) -> None:
        self._client = client
        self._store = JobStore(client.connection, FleetKeys(client.namespace))
        self._datasets = AsyncDatasets(client.connection, client.namespace, client.cipher)

    async def evaluate(
        self,
        program: str,
        dataset: str,
        metric: str | MetricSpec,
        *,
        session: str = DEFAULT_SESSION,
        exactly: Token | str | None = None,
        arms: Sequence[str] | None = None,
        options: EvaluationOptions | None = None,
        job_id: str | None = None,
    ) -> Job:
        """Start an evaluation on a worker, as ``fleet.evaluate`` runs it here.

        Args:
            program, session, exactly, arms: as in ``fleet.evaluate``.
            dataset: reference of a stored dataset.
            metric: by reference, since it runs on workers.
            options: how it is run.
            job_id: a name for the job; the same name starts one job, however often it is given.

        Raises:
            EvaluationError, DatasetError, MetricError: a part of it can't be; nothing was started.
            BridgeError: what ``fleet.evaluate`` raises before its first prediction.
            StoreUnavailableError: Redis is away.
        """
        chosen = (options or EvaluationOptions()).check()
        if chosen.where == "client" or chosen.on_progress is not None:
            raise EvaluationError(
                "where", "a job's metric runs on workers, and its progress is watched: jobs.watch(id)"
            )
        spec = MetricSpec.parse(metric)
        spec = replace(spec, version=chosen.metric_version or spec.version)
        return await run_on_home_loop(
            self._evaluate(program, dataset, spec, session, exactly, arms, chosen, job_id or uuid4().hex)
        )

    async def optimize(
        self,
        program: str,
        trainset: str,
        metric: str | MetricSpec,
        *,
        optimizer: str,
        options: Mapping[str, Any] | None = None,
        compile_options: Mapping[str, Any] | None = None,
        valset: str | None = None,
        session: str = DEFAULT_SESSION,
        budget: Budget | None = None,
        in_flight: int = 100,
        priority: int = 0,
        lm: str = "",
        label: str | None = "candidate",
        author: str = "",
        job_id: str | None = None,
    ) -> Job:
        """Start an optimization on a worker, as ``fleet.optimize`` runs it here.

        Args:
            program, session, budget, in_flight, priority, label, author: as in ``fleet.optimize``.
            trainset, valset: references of stored datasets.
            metric: by reference, in a package that the workers allow, or the name of one of DSPy's own.
            optimizer: the name of one of DSPy's, or the import path of a class in a package that the workers allow.
            options, compile_options: as in ``fleet.optimize``, JSON values: LMs are named by their profiles.
            lm: the LM profile that the optimizer itself asks, if it does; the default one if empty.
            job_id: a name for the job; the same name starts one job, however often it is given.

        Raises:
            OptimizationError, MetricError: a part of it can't be; nothing was started.
            ProgramNotFoundError, DatasetNotFoundError: what is named isn't stored.
            StoreUnavailableError: Redis is away.
        """
        given = OptimizationArguments(
            program, trainset, {}, optimizer, options or {}, compile_options or {}, valset or "", lm, session,
            in_flight=in_flight, priority=priority, label=label or "", **({} if budget is None else asdict(budget)),
        )  # fmt: skip
        # In a thread: it loads DSPy.
        spec = await asyncio.to_thread(_check_optimization, given, metric)
        given = replace(given, metric=asdict(spec))
        return await run_on_home_loop(self._optimize(given, author, job_id or uuid4().hex))

    async def list(self, *, kind: JobKind | None = None, limit: int = 100) -> list[Job]:
        """Return the newest jobs, newest first.

        Args:
            kind: ``evaluation`` or ``optimization``; None for both.
            limit: how many at most.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        found = await run_on_home_loop(self._store.list(kind=kind, limit=limit))
        return await asyncio.gather(*map(self._settle, found))

    async def get(self, job: str) -> Job:
        """Return how a job stands.

        Raises:
            JobNotFoundError: there is none of this id.
            StoreUnavailableError: Redis is away.
        """
        return await self._settle(await run_on_home_loop(self._store.get(job)))

    async def watch(self, job: str) -> AsyncGenerator[Job]:
        """Yield how a job stands, now and whenever that changes, until it has ended.

        Raises:
            JobNotFoundError: there is none of this id.
            StoreUnavailableError: Redis stays away.
        """
        shown, reached_at = None, time.monotonic()
        while shown is None or shown.end is None:
            with suppress(StoreUnavailableError):
                found, reached_at = await self.get(job), time.monotonic()
                if found != shown:
                    shown = found
                    yield found
                    continue
            if time.monotonic() - reached_at > _PATIENCE_S:
                await self.get(job)  # which raises what is wrong
            await asyncio.sleep(_POLL_INTERVAL_S)

    async def wait(self, job: str, timeout_s: float | None = None) -> Job:
        """Return a job once it has ended.

        Args:
            job: its id.
            timeout_s: seconds to wait; for ever if None.

        Raises:
            JobNotFoundError: there is none of this id.
            PredictionTimeoutError: it hasn't ended in time; it goes on.
            StoreUnavailableError: Redis stays away.
        """
        found = await self.get(job)
        try:
            async with asyncio.timeout(timeout_s):
                async for latest in self.watch(job):
                    found = latest
        except TimeoutError:
            raise PredictionTimeoutError(job, timeout_s or 0.0, f"is {found.state}") from None
        return found

    async def cancel(self, job: str, *, author: str = "") -> Job:
        """Cancel a job unless it has ended, and return how it stands; predictions that it has sent are finished.

        Args:
            job: its id.
            author: who cancels it, for the audit trail.

        Raises:
            JobNotFoundError: there is none of this id.
            StoreUnavailableError: Redis is away.
        """
        await self.get(job)
        await run_on_home_loop(self._client.results.cancel(job, author=author, what="job"))
        return await self.get(job)

    async def _evaluate(
        self,
        program: str,
        reference: str,
        metric: MetricSpec,
        session: str,
        exactly: Token | str | None,
        arms: Sequence[str] | None,
        options: EvaluationOptions,
        job_id: str,
    ) -> Job:
        # In a thread: the registry loads DSPy.
        registry = await asyncio.to_thread(lambda: self._client.registry)
        dataset = await self._datasets.get(reference)
        pinned = await ArmResolver(registry, self._client.store).pin(program, dataset, session, exactly, arms)
        names = ("in_flight", "failure_score", "repeat", "keep_s", "keep_content")
        chosen = {name: getattr(options, name) for name in names}
        arguments = EvaluationArguments(str(dataset), asdict(metric), pinned, **chosen).encode()
        job = Job(job_id, "evaluation", program, session, arguments, options.author, time.time())
        return await self._start(job, LIMIT_S)

    async def _optimize(self, given: OptimizationArguments, author: str, job_id: str) -> Job:
        found = await self._client.registry.get(given.program)
        trainset = await self._datasets.find(given.trainset)
        valset = "" if not given.valset else str(await self._datasets.find(given.valset))
        token = ""
        with suppress(SessionNotFoundError):
            token = str((await self._client.store.head(given.session)).token)
        pinned = replace(
            given, program=f"{found.name}:{found.version}", trainset=str(trainset), valset=valset, token=token
        )
        job = Job(job_id, "optimization", found.name, given.session, pinned.encode(), author, time.time())
        return await self._start(job, LIMIT_S if given.max_s is None else given.max_s)

    async def _start(self, job: Job, limit_s: float) -> Job:
        """Store a job and send its task. A second message of a job finds its record, and pays for nothing twice."""
        await self._store.put(job)
        queue = code_queue(self._client.queue)
        await asyncio.to_thread(
            self._client.send_task,
            RUN_JOB,
            [job.id],
            task_id=job.id,
            queue=queue,
            priority=_PRIORITY,
            time_limit_s=limit_s + _GRACE_S,
        )
        return await self.get(job.id)

    async def _settle(self, job: Job) -> Job:
        """Return a job with its end, also where its task was ended from outside: cancelled, or given up."""
        if job.end is not None:
            return job
        outcome = await run_on_home_loop(self._client.results.outcome(job.id))
        if not outcome.ready:
            return job
        # The task may have stored its end between the two reads.
        job = await run_on_home_loop(self._store.get(job.id))
        error = outcome.error
        if job.end is not None or error is None:
            return job
        state = "cancelled" if isinstance(error, PredictionCancelledError) else "failed"
        end = JobEnd(state, time.time(), error=type(error).__name__, problem=error_text(error))
        await run_on_home_loop(self._store.end(job.id, end))
        return replace(job, end=end)


def _check_optimization(given: OptimizationArguments, metric: str | MetricSpec) -> MetricSpec:
    """Return the metric of an optimization, if a worker can run that.

    Raises:
        OptimizationError, MetricError: it can't.
    """
    from snakepit_bridge.client.optimization.budget import Budget
    from snakepit_bridge.client.optimization.optimizers import OptimizerSpec
    from snakepit_bridge.client.optimization.sources import check_metric

    if not isinstance(given.optimizer, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptimizationError("optimizer", "a job's optimizer is given by its name or import path, and its options")
    try:
        encode_canonical([given.options, given.compile_options])
    except (TypeError, ValueError) as exc:
        raise OptimizationError(
            "options", f"those of a job are JSON values, with LMs by their profiles: {exc}"
        ) from None
    Budget(given.max_predictions, given.max_usd, given.max_s)
    if ":" not in given.optimizer:  # a package of one's own may be installed on workers alone
        OptimizerSpec(given.optimizer, given.options).check()
    return check_metric(metric)


class Jobs:
    """The jobs of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await, with ``watch``.
    """

    def __init__(self, aio: AsyncJobs) -> None:
        self.aio = aio

    evaluate = blocking(AsyncJobs.evaluate)
    optimize = blocking(AsyncJobs.optimize)
    list = blocking(AsyncJobs.list)
    get = blocking(AsyncJobs.get)
    wait = blocking(AsyncJobs.wait)
    cancel = blocking(AsyncJobs.cancel)
