"""The Status service: how the fleet stands now, and what has ended lately."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.backlog import read_fleet_backlog
from snakepit_bridge.delivery.activity import (
    KEPT_S,
    MINUTE_S,
    ActivityStore,
    EndedPredictions,
    LiveProcess,
    merge_minutes,
)
from snakepit_bridge.delivery.backlog import Backlog, QueueDepth
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.protocol.messages import code_queue
from tasks.rate_limits.usage import LimitsInUse, read_limits
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import timestamp_message
from workers.gateway.api.targets import require_all_sessions
from workers.gateway.call import ClientCall, require_seconds
from workers.gateway.errors import MalformedError
from workers.session_reports import SessionReport, SessionsReader

_DEFAULT_SINCE_S = 3_600.0
# Spans that a response has at most.
_MAX_SPANS = 180
_MAX_LAGGING = 100
# Heads of all sessions in use are read, however many ask.
_SESSIONS_INTERVAL_S = 10.0
# A process counts what has ended in the minute of its report, so that older minutes change no more.
_CHANGING_MINUTES = 2


class GatewayStatus:
    """The operations on the fleet's status.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._activity = ActivityStore(fleet.connection, namespace=fleet.namespace)
        self._minutes: dict[int, EndedPredictions] = {}
        self._sessions = SessionsReader(fleet)
        self._lagging: Sequence[SessionReport] = ()
        self._lagging_at = float("-inf")
        self._turn = asyncio.Lock()

    async def get(self, request: pb.GetStatusRequest, call: ClientCall) -> pb.FleetStatus:
        """Return how the fleet stands."""
        require_all_sessions(call, GrantScope.READ)
        since_s = require_seconds(request.since_s, "since_s") if request.HasField("since_s") else _DEFAULT_SINCE_S
        if since_s > KEPT_S:
            raise MalformedError("since_s", f"it must be at most {KEPT_S}, for which minutes are kept")
        fleet, now = self._fleet, time.time()
        processes, backlog, limits, lagging, minutes = await asyncio.gather(
            self._activity.read_processes(),
            read_fleet_backlog(fleet, (fleet.queue, code_queue(fleet.queue))),
            read_limits(fleet.connection, namespace=fleet.namespace),
            self._read_lagging(),
            self._read_minutes(now - since_s, now),
        )
        width = -(-len(minutes) // _MAX_SPANS)
        return pb.FleetStatus(
            at=timestamp_message(now),
            processes=map(_process_message, processes),
            **_backlog_fields(backlog),
            **_limit_fields(limits),
            lagging=map(_lagging_message, lagging),
            ended=[_ended_message(each, width * MINUTE_S) for each in merge_minutes(minutes, width)],
        )

    async def _read_lagging(self) -> Sequence[SessionReport]:
        async with self._turn:
            if time.monotonic() - self._lagging_at > _SESSIONS_INTERVAL_S:
                found = await self._sessions.read()
                lagging = sorted((each for each in found.sessions if each.lagging), key=lambda each: -each.lagging)
                self._lagging, self._lagging_at = lagging[:_MAX_LAGGING], time.monotonic()
        return self._lagging

    async def _read_minutes(self, since: float, until: float) -> list[EndedPredictions]:
        """Return what ended in each minute; those that were read before and change no more are remembered."""
        first, last = int(since // MINUTE_S), int(until // MINUTE_S)
        missing = next((minute for minute in range(first, last) if minute not in self._minutes), last)
        start = min(missing, last - _CHANGING_MINUTES + 1)
        for found in await self._activity.read_minutes(start * MINUTE_S, until):
            self._minutes[int(found.at // MINUTE_S)] = found
        oldest = int((until - KEPT_S) // MINUTE_S)
        self._minutes = {minute: found for minute, found in self._minutes.items() if minute >= oldest}
        return [self._minutes[minute] for minute in range(first, last + 1) if minute in self._minutes]


def _process_message(process: LiveProcess) -> pb.WorkerProcess:
    report = process.report
    return pb.WorkerProcess(
        node=report.node,
        pid=report.pid,
        pool=report.pool,
        concurrency=report.concurrency,
        in_flight=max(0, report.in_flight),
        queues=report.queues,
        started_at=timestamp_message(report.started_at),
        reported_at=timestamp_message(process.reported_at),
        newer_release=report.newer_release,
        **_outcome_fields(report.ended),
    )


def _backlog_fields(backlog: Backlog) -> dict[str, Any]:
    return {
        "queues": [_depth_message(depth) for depth in backlog.queues],
        "held": backlog.held,
        "delayed": backlog.delayed,
        "parked": backlog.parked,
        "dead": backlog.dead,
    }


def _depth_message(depth: QueueDepth) -> pb.QueueDepth:
    oldest_s = depth.oldest_s if depth.waiting else None
    return pb.QueueDepth(queue=depth.queue, priorities=depth.priorities, waiting=depth.waiting, oldest_s=oldest_s)


def _limit_fields(found: LimitsInUse) -> dict[str, Any]:
    return {
        "limits": [
            pb.LimitUse(profile=limit.profile, kind=limit.kind, allowed=limit.allowed, used=limit.used)
            for limit in sorted(found.limits, key=lambda limit: (limit.profile, limit.kind))
        ],
        "parked_by_profile": [
            pb.ParkedPredictions(profile=profile, predictions=count)
            for profile, count in sorted(found.parked.items())
            if count > 0
        ],
    }


def _lagging_message(report: SessionReport) -> pb.LaggingSession:
    return pb.LaggingSession(session=report.session, processes=report.lagging, behind=report.behind)


def _ended_message(ended: EndedPredictions, seconds: float) -> pb.EndedPredictions:
    return pb.EndedPredictions(
        at=timestamp_message(ended.at),
        seconds=seconds,
        **_outcome_fields(ended.outcomes),
        p50_s=ended.latency_s(0.5),
        p95_s=ended.latency_s(0.95),
    )


def _outcome_fields(outcomes: Mapping[str, int]) -> dict[str, int]:
    return {
        "succeeded": outcomes.get("ok", 0),
        "failed": outcomes.get("failed", 0),
        "cancelled": outcomes.get("cancelled", 0),
    }
