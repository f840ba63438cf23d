"""The runtime: connections, caches and limits that the tasks of one worker process share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.protocol.json_values import BOUNDS, ValueBounds
from snakepit_bridge.protocol.messages import is_final
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.releases.controller import RolloutController
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.freshness import FAIL, OutagePolicy
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.activity import ActivityReporter
from tasks.audit_trimming import AuditTrimmer
from tasks.cancellation import CancellationRegistry
from tasks.job_runner import JobRunner
from tasks.journal.store import JournalStore
from tasks.judging import Judging
from tasks.lm_batches.collector import LMBatchCollector
from tasks.message_lease import MessageLeases
from tasks.metrics import Metrics
from tasks.quarantine import Quarantine
from tasks.rabbitmq_deliveries import CrashCounter
from tasks.rate_limits.protocol import RateLimiter, Unlimited
from tasks.recording import Recording
from tasks.response_cache.single_flight import AnswerCache
from tasks.revisions import RevisionBinder, SessionSnapshots


@dataclass(frozen=True, slots=True)
class Runtime:
    """Shared state of the tasks of one process. Built after the fork, never before.

    Attributes:
        sessions: snapshots by requirement.
        registry: programs by reference.
        binder: binds programs to snapshots and reports the applied revisions.
        results: the connection to the result backend.
        payloads: inputs and results that are too large for a message.
        store: the snapshot store, to retain the snapshots of results.
        keep_s: seconds for which a result and its snapshot are kept.
        concurrency_limits: per LM profile, how many predictions run at a time.
        cancellations: the running predictions, which can be cancelled.
        profiles: the LM profiles.
        cache: the response cache of programs that have one.
        rollouts: moves the fleet's rollouts on, in one process at a time.
        rate_limiter: the rate limits of the whole fleet.
        quarantine: the quarantine of predictions whose workers crashed.
        batch_slots: bounds how many inputs of batches run at a time, over all batches of the process.
        message_leases: the leases on the broker's messages; None with another transport than ours.
        deliveries: counts lost deliveries; None with our transport, which counts them itself.
        bounds: maximum depth and size of an input.
        outage_policy: the outage policy of predictions that set none.
        shares_process: whether tasks share a process, so that programs that execute code must run elsewhere.
        metrics: the metrics of evaluations.
        judging: the judges of predictions; None where nothing is judged.
        recording: the recorders of predictions; None where nothing is recorded.
        jobs: runs evaluations and optimizations; None where none are run.
        journals: what the calls of running predictions were answered; None where that isn't kept.
        collector: sends and follows batches of LM calls, in one process at a time; None where there are none.
        activity: reports what the process does; None where nothing is reported.
        trimmer: bounds the audit trail; None where there is none.
        captures_lm_calls: whether prompts and answers of predictions are kept with their results.
    """

    sessions: SessionSnapshots
    registry: ProgramRegistry
    binder: RevisionBinder
    results: RedisConnection
    payloads: Payloads
    store: SnapshotStore
    keep_s: float
    concurrency_limits: Mapping[str, asyncio.Semaphore]
    cancellations: CancellationRegistry
    profiles: LMProfiles
    cache: AnswerCache
    rollouts: RolloutController
    metrics: Metrics
    rate_limiter: RateLimiter = field(default_factory=Unlimited)
    quarantine: Quarantine = field(default_factory=Quarantine)
    batch_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2_000))
    message_leases: MessageLeases | None = None
    deliveries: CrashCounter | None = None
    bounds: ValueBounds = BOUNDS
    outage_policy: OutagePolicy = FAIL
    shares_process: bool = False
    judging: Judging | None = None
    recording: Recording | None = None
    jobs: JobRunner | None = None
    journals: JournalStore | None = None
    collector: LMBatchCollector | None = None
    activity: ActivityReporter | None = None
    trimmer: AuditTrimmer | None = None
    captures_lm_calls: bool = False

    async def ended(self, result_key: str) -> bool:
        """Check whether a task has its final result; a cancelled or redelivered one may have it before it starts.

        Raises:
            StoreUnavailableError: the result backend is unavailable.
        """
        return is_final(await self.fetch_result(result_key))

    def fetch_result(self, result_key: str) -> Awaitable[bytes | None]:
        """Fetch a task's stored result, pipelined with other commands; pass it to :func:`is_final`."""
        return self.results.execute("GET", result_key)

    async def find_finished(self, result_keys: Sequence[str]) -> set[str]:
        """Return the result keys of those tasks that have their final result.

        Raises:
            StoreUnavailableError: the result backend is unavailable.
        """
        results: Sequence[bytes | None] = await self.results.execute("MGET", *result_keys)
        return {key for key, stored in zip(result_keys, results, strict=True) if is_final(stored)}

    async def keep(self, snapshot: Snapshot) -> None:
        """Retain a result's snapshot for as long as the result, so that the prediction can be replayed.

        Raises:
            StoreUnavailableError: the store is unavailable.
        """
        if snapshot.token.revision:  # the default session before its first publish isn't in any store
            await self.store.keep(snapshot, self.keep_s)

    async def aclose(self) -> None:
        """Stop the background tasks and close the connections of the running event loop."""
        for part in (
            self.rollouts,
            self.binder,
            self.rate_limiter,
            self.cancellations,
            self.sessions.replica,
            self.store,
            self.results,
        ):
            await part.aclose()
        if self.judging is not None:
            await self.judging.aclose()
        if self.collector is not None:
            await self.collector.aclose()
        if self.trimmer is not None:
            await self.trimmer.aclose()
        if self.recording is not None:
            await self.recording.aclose()
        if self.activity is not None:
            await self.activity.aclose()
        if self.jobs is not None:
            await self.jobs.aclose()
        if self.message_leases is not None:
            await self.message_leases.connection.aclose()

    def concurrency_slot(self, profile: str) -> AbstractAsyncContextManager[Any]:
        """Return the semaphore that a prediction of an LM profile holds while it runs."""
        return self.concurrency_limits.get(profile) or nullcontext()


class HasRuntime(Protocol):
    """The Celery app, as the tasks see it."""

    @property
    def runtime(self) -> Runtime:
        """This process's runtime, built on first use."""
        ...
