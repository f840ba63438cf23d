"""Reads the state of the fleet at intervals, off every hot path, and exports what was read last."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Generic, TypeVar

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.backlog import read_fleet_backlog
from snakepit_bridge.delivery.backlog import Backlog, QueueDepth
from snakepit_bridge.process.aio import OutageLog, every
from snakepit_bridge.protocol.messages import code_queue
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.instruments import NO_LABELS, Labels
from snakepit_bridge.telemetry.metrics import (
    LAGGING_PROCESSES,
    LEASES_EXPIRED,
    LIMIT_ALLOWED,
    LIMIT_USED,
    LIVE_REFRESHERS,
    LIVE_WORKERS,
    MESSAGES_DEAD,
    MESSAGES_DELAYED,
    MESSAGES_HELD,
    MESSAGES_PARKED,
    QUEUE_AGE,
    QUEUE_DEMAND,
    QUEUE_DEPTH,
    REVISION_LAG,
    SESSION_STALENESS,
    STALE_SESSIONS,
    Metric,
)
from tasks.rate_limits.usage import LimitsInUse, LimitUse, read_limits
from workers.session_reports import SessionReport, SessionsReader, SessionsReport

T = TypeVar("T")
Values = Iterable[tuple[float, Labels]]

_INTERVAL_S, _SESSIONS_INTERVAL_S = 5.0, 15.0
# What hasn't been read for so many intervals is exported no more.
_KEPT_INTERVALS = 3

_log = logging.getLogger(__name__)


class FleetMetrics:
    """The metrics of the fleet as a whole. Every process that exports them reads the same, so dashboards take one.

    Args:
        fleet: the fleet.
        followed: sessions that are in use whether or not somebody asks for them.
    """

    def __init__(self, fleet: Fleet, followed: Collection[str] = ()) -> None:
        queues = (fleet.queue, code_queue(fleet.queue))
        self._backlog = _Reading("its queues", partial(read_fleet_backlog, fleet, queues), _INTERVAL_S)
        limits = partial(read_limits, fleet.connection, namespace=fleet.namespace)
        self._limits = _Reading("its rate limits", limits, _INTERVAL_S)
        self._sessions = _Reading("its sessions", SessionsReader(fleet, followed).read, _SESSIONS_INTERVAL_S)

    async def run(self) -> None:
        """Read and export until cancelled; do nothing if no metrics are recorded."""
        if not TELEMETRY.meter.enabled:
            return
        for metric, values in _OF_BACKLOG.items():
            self._backlog.observe(metric, values)
        for metric, values in _OF_LIMITS.items():
            self._limits.observe(metric, values)
        for metric, values in _OF_SESSIONS.items():
            self._sessions.observe(metric, values)
        await asyncio.gather(self._backlog.poll(), self._limits.poll(), self._sessions.poll())


class _Reading(Generic[T]):
    """What was read last of one part of the fleet's state."""

    def __init__(self, what: str, read: Callable[[], Awaitable[T]], interval_s: float) -> None:
        self._read = read
        self._interval_s = interval_s
        self._outage = OutageLog(_log, f"The metrics of the fleet lack {what}")
        self._value: T | None = None
        self._read_at = 0.0

    async def poll(self) -> None:
        await every(self._interval_s, self._read_once, self._outage)

    async def _read_once(self) -> None:
        self._value = await self._read()
        self._read_at = time.monotonic()

    def observe(self, metric: Metric, values: Callable[[T], Values]) -> None:
        """Export values of what was read last, unless that was too long ago."""

        def read() -> Values:
            value = self._value
            is_old = time.monotonic() - self._read_at > _KEPT_INTERVALS * self._interval_s
            return () if value is None or is_old else values(value)

        TELEMETRY.meter.observe(metric, read)


def _single(count: float | None) -> Values:
    return [] if count is None else [(float(count), NO_LABELS)]


def _of_queue(depth: QueueDepth) -> Labels:
    priorities = depth.priorities.replace(" to ", "-")
    return {"messaging.destination.name": depth.queue, "dspex.priority": priorities}


def _of_limit(limit: LimitUse) -> Labels:
    return {"dspex.profile": limit.profile, "dspex.limit": limit.kind}


def _of_session(report: SessionReport) -> Labels:
    return {"dspex.session": report.session}


def _list_ages(backlog: Backlog) -> Values:
    return [(depth.oldest_s, _of_queue(depth)) for depth in backlog.queues if depth.oldest_s is not None]


def _list_staleness(report: SessionsReport) -> Values:
    found = [(each.staleness_s, _of_session(each)) for each in report.sessions if each.staleness_s is not None]
    return found or _single(0)


def _list_parked(found: LimitsInUse) -> Values:
    parked = {**{limit.profile: 0 for limit in found.limits}, **found.parked}
    return [(float(count), {"dspex.profile": profile}) for profile, count in parked.items()]


_OF_BACKLOG: dict[Metric, Callable[[Backlog], Values]] = {
    QUEUE_DEPTH: lambda backlog: [(float(depth.waiting), _of_queue(depth)) for depth in backlog.queues],
    QUEUE_AGE: _list_ages,
    QUEUE_DEMAND: lambda backlog: [
        (float(count), {"messaging.destination.name": queue}) for queue, count in backlog.demand().items()
    ],
    MESSAGES_HELD: lambda backlog: _single(backlog.held),
    MESSAGES_DELAYED: lambda backlog: _single(backlog.delayed),
    MESSAGES_DEAD: lambda backlog: _single(backlog.dead),
    LEASES_EXPIRED: lambda backlog: _single(backlog.expired),
}

_OF_LIMITS: dict[Metric, Callable[[LimitsInUse], Values]] = {
    MESSAGES_PARKED: _list_parked,
    LIMIT_ALLOWED: lambda found: [(limit.allowed, _of_limit(limit)) for limit in found.limits],
    LIMIT_USED: lambda found: [(limit.used, _of_limit(limit)) for limit in found.limits],
}

_OF_SESSIONS: dict[Metric, Callable[[SessionsReport], Values]] = {
    LIVE_WORKERS: lambda found: _single(found.workers),
    LIVE_REFRESHERS: lambda found: _single(found.refreshers),
    SESSION_STALENESS: _list_staleness,
    STALE_SESSIONS: lambda found: _single(sum(each.is_stale for each in found.sessions)),
    LAGGING_PROCESSES: lambda found: (
        [(float(each.lagging), _of_session(each)) for each in found.sessions] or _single(0)
    ),
    REVISION_LAG: lambda found: [(float(each.behind), _of_session(each)) for each in found.sessions] or _single(0),
}
