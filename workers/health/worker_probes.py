"""A worker's health, as its watchdog sees it.

The watchdog knows whether the event loops turn, and the worker reports the rest. What only a server can tell, whether
the store answers and messages wait, is asked here in the background, so that an answer never waits for a server.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from snakepit_bridge.exceptions import DataFormatError
from snakepit_bridge.process.aio import OutageLog
from workers.health.checks import ProbeSettings, Problems
from workers.health.worker_report import WorkerReport
from workers.watchdog.beats import SharedStatus
from workers.watchdog.monitor import Monitor

if TYPE_CHECKING:
    from kombu.connection import Connection

    from workers.health.checked_servers import CheckedServers

ASK_INTERVAL_S = 1.0
# Seconds after which a report is out of date: no thread of the worker runs.
MAX_REPORT_AGE_S = 5.0
# A heartbeat to a broker that doesn't answer takes as long as its timeouts.
MAX_KEEPER_SILENCE_S = 30.0
# Seconds, or timeouts of Redis, after which what a server told is out of date: a round waits for a few of them.
MAX_ANSWER_AGE_S = 30.0
_MAX_ANSWER_AGE_TIMEOUTS = 6
_STARTING = "the worker isn't ready yet"

_log = logging.getLogger(__name__)


class WorkerProbes:
    """The checks of a worker's endpoints.

    Args:
        settings: the worker's.
        monitor: knows whether the event loops turn, and whether the worker was told to stop.
        status: where the worker reports its state.
        connect: returns a connection to its broker.
    """

    def __init__(
        self, settings: ProbeSettings, monitor: Monitor, status: SharedStatus, connect: Callable[[], Connection]
    ) -> None:
        self._settings = settings
        self._connect = connect
        self._monitor = monitor
        self._status = status
        self._store_problem = self._consumer_problem = self._format_problem = ""
        self._asked_at: float | None = None
        self._store_outage = OutageLog(_log, "The store can't be checked")
        self._queues_outage = OutageLog(_log, "The messages that wait can't be counted")

    def start(self) -> None:
        """Ask the servers from now on, in the background."""
        self._asked_at = time.monotonic()
        threading.Thread(target=self._run, name="dspex-health-checks", daemon=True).start()

    def live(self) -> Problems:
        """Return whether the event loop and the thread that renews leases run.

        A prediction with its own process may compute for longer than an orchestrator waits; the watchdog limits it.
        """
        stall = self._monitor.describe_stall(self._settings.stall_limit_s)
        return {"event_loop": stall, "lease_keeper": "" if self._computes_alone() else self._check_keeper()}

    def ready(self) -> Problems:
        """Return whether the worker takes messages and can run predictions."""
        report, live = self._read_report(), {**self.live(), "lease_keeper": self._check_keeper()}
        store = self._describe_silence() or self._store_problem
        if report is None:
            return {"startup": _STARTING, **live, "store": store}
        is_stopping = report.is_stopping or self._monitor.is_stopping
        return {
            **live,
            "report": "the worker can't determine its state; see its log" if report.is_unknown else "",
            "shutdown": "the worker is shutting down" if is_stopping else "",
            "broker": report.broker_problem,
            "store": store,
            "release": self._format_problem or report.newer_release,
            "lm_profiles": "" if report.has_profiles else "they aren't resolved yet",
            "programs": "" if self._is_warm(report) else "no process has loaded what they need yet",
            "consumer": "" if is_stopping or report.broker_problem else self._consumer_problem,
        }

    def started(self) -> Problems:
        """Return whether the worker has begun to consume."""
        return {"startup": _STARTING if self._read_report() is None else ""}

    def _read_report(self) -> WorkerReport | None:
        data = self._status.read_report()
        return None if data is None else WorkerReport.decode(data)

    def _check_keeper(self) -> str:
        report = self._read_report()
        if report is None:
            return ""
        age_s = time.monotonic() - report.reported_at
        if age_s > MAX_REPORT_AGE_S:
            return f"no thread of the worker has run for {age_s:.0f} s"
        silent_s = report.keeper_silent_s
        return "" if silent_s <= MAX_KEEPER_SILENCE_S else f"it hasn't run for {silent_s:.0f} s"

    def _computes_alone(self) -> bool:
        """Check whether the worker's main process runs one prediction at a time, and nothing that others wait for."""
        limit_s = self._settings.stall_limit_s
        return any(beat.pid == self._monitor.pid and beat.limit_s > limit_s for beat in self._status)

    def _is_warm(self, report: WorkerReport) -> bool:
        return any(beat.pid != self._monitor.pid for beat in self._status) if report.forks else report.is_warm

    # ------------------------------------------------------------------ what servers tell

    def _run(self) -> None:
        while True:
            self._ask()
            time.sleep(ASK_INTERVAL_S)

    def _ask(self) -> None:
        """Ask each server once, whatever error that ends in."""
        self._store_problem = _try(self._ask_store, self._store_outage, otherwise="it can't be checked")
        # The check of the broker tells that the worker has lost it.
        self._consumer_problem = _try(self._ask_queues, self._queues_outage, otherwise="")
        self._asked_at = time.monotonic()

    def _describe_silence(self) -> str:
        """Describe for how long no server has been asked; empty if that isn't long."""
        age_s = 0.0 if self._asked_at is None else time.monotonic() - self._asked_at
        limit_s = max(MAX_ANSWER_AGE_S, _MAX_ANSWER_AGE_TIMEOUTS * self._settings.redis_timeout_s)
        return f"it hasn't been asked for {age_s:.0f} s" if age_s > limit_s else ""

    @cached_property
    def _servers(self) -> CheckedServers:
        from workers.health.checked_servers import CheckedServers

        return CheckedServers(self._settings, self._connect)

    def _ask_store(self) -> str:
        servers = self._servers
        try:
            servers.ping()
        except DataFormatError as exc:
            self._format_problem = str(exc)
            return ""
        except servers.outages as exc:
            return f"it doesn't answer: {type(exc).__name__}"
        self._format_problem = ""
        return ""

    def _ask_queues(self) -> str:
        """Return the problem of a worker that takes nothing while messages wait."""
        report, servers = self._read_report(), self._servers
        if report is None:
            return ""
        try:
            waiting = {name: count for name in report.idle_queues if (count := self._count_waiting(name))}
        except servers.outages as exc:
            _log.debug("The messages that wait can't be counted: %s", type(exc).__name__)
            return ""  # the broker's own check tells
        return "; ".join(f"it takes nothing from '{name}', messages waiting there: {waiting[name]}" for name in waiting)

    def _count_waiting(self, queue: str) -> int:
        return self._servers.count_waiting(queue)


def _try(ask: Callable[[], str], outage: OutageLog, *, otherwise: str) -> str:
    with outage.survive():
        return ask()
    return otherwise
