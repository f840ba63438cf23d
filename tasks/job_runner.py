"""Run jobs: evaluations and optimizations that survive whoever started them, and the worker that runs them.

What a job pays for is stored as it goes: the predictions that it sends by their idempotency keys, and the LM calls of
an optimizer in the task's journal. So a job whose worker was killed is run again from its beginning, finds all that,
and pays for the rest alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import Any

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.evaluation_options import EvaluationOptions
from snakepit_bridge.client.evaluation_run import Progress
from snakepit_bridge.evaluations.job_store import JobStore
from snakepit_bridge.evaluations.jobs import EvaluationArguments, Job, JobEnd, OptimizationArguments
from snakepit_bridge.evaluations.metric import MetricSpec
from snakepit_bridge.exceptions import (
    BridgeError,
    PredictionCancelledError,
    SessionNotFoundError,
    StoreUnavailableError,
    error_text,
)
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.process.aio import OutageLog, cancel_tasks, every
from snakepit_bridge.programs.registry import UNREGISTERED
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.cancellation import CancellationRegistry
from tasks.journal.store import JournalStore
from tasks.journal.task_journal import keep_task_journal
from tasks.optimization import OptimizerThread
from tasks.prediction_context import PredictionContext
from tasks.requests import Delivery
from tasks.spending import bind_spending

_REPORT_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)

DescribeProgress = Callable[[], Mapping[str, Any]]


class JobRunner:
    """Runs the jobs of a process. Lives on the home loop.

    Args:
        open_fleet: returns the client by which jobs send predictions.
        profiles: the LMs that optimizers ask themselves.
        cancellations: the running tasks.
        journals: keep the answers to LM calls of optimizers, for a job that is run again.
    """

    def __init__(
        self,
        open_fleet: Callable[[], Fleet],
        profiles: LMProfiles,
        cancellations: CancellationRegistry,
        journals: JournalStore,
    ) -> None:
        self._open_fleet = open_fleet
        self._profiles = profiles
        self._cancellations = cancellations
        self._journals = journals
        self._is_open = False

    async def run(self, job_id: str, delivery: Delivery) -> dict[str, Any]:
        """Run a job to its end, store that, and return its result.

        Args:
            job_id: the job.
            delivery: how its message was delivered.

        Raises:
            JobNotFoundError: its record has expired.
            PredictionCancelledError: it was cancelled.
            LMUnavailableError, StoreUnavailableError: it is to be run again.
            BridgeError: it failed.
        """
        job = await retry_through_outages(lambda: self._store.get(job_id))
        if job.end is not None:
            return dict(job.end.result)  # its worker died between the end and the commit of the task's result
        started_at = await retry_through_outages(lambda: self._store.begin(job_id))
        try:
            result = await self._perform(job, delivery, started_at)
        except (PredictionCancelledError, StoreUnavailableError):
            raise  # who cancelled it stores that; and a job that lost Redis goes on later
        except BridgeError as exc:
            if getattr(exc, "again_in_s", None) is None:
                end = JobEnd("failed", time.time(), error=type(exc).__name__, problem=error_text(exc))
                await self._end(job_id, end)
            raise
        await self._end(job_id, JobEnd("succeeded", time.time(), result))
        return result

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        if self._is_open:
            await self._fleet.store.aclose()
            await self._fleet.connection.aclose()

    @cached_property
    def _fleet(self) -> Fleet:
        self._is_open = True
        return self._open_fleet()

    @cached_property
    def _store(self) -> JobStore:
        return JobStore(self._fleet.connection, FleetKeys(self._fleet.namespace))

    async def _end(self, job_id: str, end: JobEnd) -> None:
        await retry_through_outages(lambda: self._store.end(job_id, end))

    async def _perform(self, job: Job, delivery: Delivery, started_at: float) -> dict[str, Any]:
        scope = await self._build_context(job, delivery)
        with self._cancellations.track(scope):
            if job.kind == "evaluation":
                return await self._evaluate(job)
            async with keep_task_journal(self._journals, delivery) as journal:
                journal.begin_run()
                scope.journal = journal
                return await self._optimize(job, scope, started_at)

    async def _evaluate(self, job: Job) -> dict[str, Any]:
        arguments, progress = EvaluationArguments.decode(job.arguments), Progress()

        def note(counted: Progress) -> None:
            nonlocal progress
            progress = counted

        def describe() -> dict[str, Any]:
            mean = progress.scores / progress.ended if progress.ended else None
            return {"total": progress.total, "ended": progress.ended, "errors": progress.errors, "mean": mean}

        options = EvaluationOptions(
            in_flight=arguments.in_flight,
            failure_score=arguments.failure_score,
            repeat=arguments.repeat,
            author=job.author,
            keep_s=arguments.keep_s,
            keep_content=arguments.keep_content,
            on_progress=note,
        )
        run = self._fleet.evaluations.aio.run_pinned
        async with self._reporting(job.id, describe):
            found = await run(arguments.arms, arguments.dataset, MetricSpec(**arguments.metric), options)
        return {"arms": {name: {"id": each.id, "score": each.score} for name, each in found.items()}}

    async def _optimize(self, job: Job, scope: PredictionContext, started_at: float) -> dict[str, Any]:
        arguments = OptimizationArguments.decode(job.arguments)
        work = OptimizerThread(self._fleet, job, arguments, scope, self._profiles)
        await work.open(elapsed_s=max(0.0, time.time() - started_at))
        async with self._reporting(job.id, work.describe):
            found = await work.run()
        return found.encode()

    @asynccontextmanager
    async def _reporting(self, job_id: str, describe: DescribeProgress) -> AsyncGenerator[None]:
        """Store how far a job has come, whenever that has changed, within the block and at its end."""
        stored: Mapping[str, Any] = {}

        async def report() -> None:
            nonlocal stored
            if (found := describe()) != stored:
                await self._store.report(job_id, found)
                stored = found

        outage = OutageLog(_log, f"Can't store the progress of job {job_id}")
        reporting = asyncio.create_task(every(_REPORT_INTERVAL_S, report, outage))
        try:
            yield
        finally:
            await cancel_tasks(reporting)
            with outage.survive():
                await report()

    async def _build_context(self, job: Job, delivery: Delivery) -> PredictionContext:
        """Return the context of a job's own LM calls, which are counted and limited as those of its program."""
        snapshot = Snapshot(job.session, Token(0, 0), {}, 0.0)
        with suppress(SessionNotFoundError):
            snapshot = await retry_through_outages(lambda: self._fleet.store.read(job.session))
        return PredictionContext(
            delivery.task_id,
            job.session,
            job.program,
            UNREGISTERED,
            snapshot,
            priority=delivery.priority,
            queue=delivery.queue,
            claim=delivery.claim,
            tries=delivery.tries,
            failing_s=delivery.failing_s,
            spending=bind_spending(delivery.task_id, job.program, job.session, str(snapshot.token), self._profiles),
        )
