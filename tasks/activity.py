"""What a worker process reports of its activity: what it runs now, and the predictions that have ended in it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import Counter
from contextvars import Context
from dataclasses import dataclass, field

from snakepit_bridge.delivery.activity import REPORT_INTERVAL_S, ActivityStore, EndedPredictions, ProcessReport
from snakepit_bridge.process.aio import OutageLog, cancel_tasks, every
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.rollouts.sketch import bucket_of
from tasks.newer_messages import NEWER_RELEASE

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerNode:
    """The node that a process belongs to.

    Attributes:
        name: Celery's.
        pool: its pool.
        concurrency: how many predictions each of its processes runs at a time.
        queues: what it consumes from.
    """

    name: str = ""
    pool: str = ""
    concurrency: int = 0
    queues: tuple[str, ...] = ()


@dataclass(slots=True)
class ActivityCounter:
    """Counts what a process does, from any thread.

    Attributes:
        node: the process's node, which a forked child has from its parent.
    """

    node: WorkerNode = field(default_factory=WorkerNode)
    _in_flight: int = 0
    _ended: Counter[str] = field(default_factory=Counter[str])
    _latencies: Counter[str] = field(default_factory=Counter[str])
    _total: Counter[str] = field(default_factory=Counter[str])
    _started_at: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Count from nothing, as a forked child does."""
        self._in_flight, self._started_at, self._lock = 0, time.time(), threading.Lock()
        self._ended, self._latencies, self._total = Counter(), Counter(), Counter()

    def begin(self) -> None:
        """Count a message that is processed from now on."""
        with self._lock:
            self._in_flight += 1

    def finish(self) -> None:
        """Count a message that is no longer processed."""
        with self._lock:
            self._in_flight -= 1

    def count_end(self, outcome: str, latency_s: float | None) -> None:
        """Count a prediction that has ended.

        Args:
            outcome: ``ok``, ``failed`` or ``cancelled``.
            latency_s: seconds since it was submitted; None if unknown.
        """
        with self._lock:
            self._ended[outcome] += 1
            self._total[outcome] += 1
            if latency_s is not None and outcome == "ok":
                self._latencies[bucket_of(1000 * latency_s)] += 1

    def take(self) -> tuple[ProcessReport, EndedPredictions]:
        """Return the process's report, and what has ended since the last one, which is counted no more."""
        with self._lock:
            ended = EndedPredictions(time.time(), dict(self._ended), dict(self._latencies))
            self._ended, self._latencies = Counter(), Counter()
            node, total, in_flight = self.node, dict(self._total), self._in_flight
        report = ProcessReport(
            node.name, os.getpid(), node.pool, node.concurrency, node.queues, in_flight, self._started_at, total,
            NEWER_RELEASE.problem,
        )  # fmt: skip
        return report, ended

    def give_back(self, ended: EndedPredictions) -> None:
        """Count again what couldn't be reported."""
        with self._lock:
            self._ended.update(ended.outcomes)
            self._latencies.update(ended.latencies)


ACTIVITY = ActivityCounter()
"""The activity of this process."""

after_fork_in_child(ACTIVITY.reset)


class ActivityReporter:
    """Reports the activity of this process while it runs. Lives on the home loop.

    Args:
        store: where it reports.
        interval_s: seconds between two reports.
    """

    def __init__(self, store: ActivityStore, interval_s: float = REPORT_INTERVAL_S) -> None:
        self._store = store
        self._interval_s = interval_s
        self._outage = OutageLog(_log, "Can't report the activity of this process")
        self._reporting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report from now on."""
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.get_running_loop().create_task(
                every(self._interval_s, self.report, self._outage), name="dspex-activity", context=Context()
            )

    async def report(self) -> None:
        """Report once.

        Raises:
            StoreUnavailableError: Redis is unreachable; what has ended is reported the next time.
        """
        report, ended = ACTIVITY.take()
        try:
            await self._store.report(report, ended)
        except BaseException:
            ACTIVITY.give_back(ended)
            raise

    async def aclose(self) -> None:
        """Stop reporting."""
        await cancel_tasks(self._reporting)
