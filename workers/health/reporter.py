"""The thread of a worker that reports the worker's state to the watchdog."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Any

from celery.worker import state

from snakepit_bridge.delivery.keys import SEPARATOR
from snakepit_bridge.process.aio import OutageLog
from tasks.newer_messages import NEWER_RELEASE
from workers.broker.lease_keeper import LeaseKeeper, running_keepers
from workers.health.worker_report import WorkerReport
from workers.watchdog.beats import MAX_REPORT_BYTES, SharedStatus
from workers.watchdog.pulse import PULSE

REPORT_INTERVAL_S = 0.5
# Heartbeats that may fail before the broker counts as unreachable.
_MAX_MISSED_HEARTBEATS = 3

_log = logging.getLogger(__name__)


class Reporter:
    """Reports the state of one worker.

    Args:
        consumer: Celery's consumer, which has started.
        forks: whether the worker's tasks run in forked processes.
    """

    def __init__(self, consumer: Any, *, forks: bool) -> None:
        self._consumer = consumer
        self._app = consumer.app
        self._forks = forks
        self._queues = tuple(self._app.amqp.queues.consume_from)
        self._failed_reports = OutageLog(_log, "The worker can't determine its health")
        self._failed_writes = OutageLog(_log, "The worker can't report its health")

    def start(self, status: SharedStatus) -> None:
        """Report to the watchdog from now on."""
        threading.Thread(target=self._run, args=(status,), name="dspex-health", daemon=True).start()

    def report(self) -> WorkerReport:
        """Return the worker's state now."""
        slot, keepers = self._app.slot, running_keepers()
        return WorkerReport(
            reported_at=time.monotonic(),
            is_stopping=any(
                why is not None and why is not False for why in (state.should_stop, state.should_terminate)
            ),
            has_profiles=slot.checked,
            is_warm=slot.warm,
            forks=self._forks,
            broker_problem=self._broker_problem(keepers),
            keeper_silent_s=max((keeper.silent_s for keeper in keepers), default=0.0),
            idle_queues=tuple(sorted({*self._unconsumed(), *_stalled(keepers)})),
            newer_release=NEWER_RELEASE.problem,
        )

    def _run(self, status: SharedStatus) -> None:
        while True:
            with self._failed_writes.survive():
                status.set_report(self._try_report().encode(MAX_REPORT_BYTES))
            time.sleep(REPORT_INTERVAL_S)

    def _try_report(self) -> WorkerReport:
        """Return the worker's state, or that it is unknown: a report out of date would have the worker restarted."""
        with self._failed_reports.survive():
            return self.report()
        return WorkerReport(time.monotonic(), is_unknown=True)

    def _broker_problem(self, keepers: Iterable[LeaseKeeper]) -> str:
        connection = self._consumer.connection  # None from when it is lost until there is another
        if connection is None or not connection.connected:
            return "the worker isn't connected to it"
        for keeper in keepers:
            unanswered_s = keeper.unanswered_s
            if unanswered_s > _MAX_MISSED_HEARTBEATS * keeper.leases.settings.heartbeat_s:
                return f"it hasn't answered a heartbeat for {unanswered_s:.0f} s"
        return ""

    def _unconsumed(self) -> Iterable[str]:
        """Return the queues that the worker was started with and has been told to take no more from."""
        consumer = self._consumer.task_consumer
        # Without a connection it consumes from none, which is the broker's problem.
        return [name for name in self._queues if consumer is not None and not consumer.consuming_from(name)]


def report_health(consumer: Any) -> None:
    """Report a worker's state to its watchdog from now on, if that serves the health endpoints.

    Args:
        consumer: Celery's consumer, which has started.
    """
    settings: Any = getattr(consumer.app, "settings", None)
    if settings is not None and settings.health_address and PULSE.status is not None:
        forks = type(consumer.pool).__module__ == "celery.concurrency.prefork"
        Reporter(consumer, forks=forks).start(PULSE.status)


def _stalled(keepers: Iterable[LeaseKeeper]) -> Iterable[str]:
    """Return the queues that a consumer has room for and gets no replies about."""
    for keeper in keepers:
        for channel in list(keeper.leases.channels):
            for place in channel.stalled_lists(keeper.leases.settings.stall_s):
                yield place.partition(SEPARATOR)[0]
