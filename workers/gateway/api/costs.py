"""The Costs service: what predictions cost."""

from __future__ import annotations

import asyncio
from typing import cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.costs.report import (
    COST_DIMENSIONS,
    MAX_SINCE_S,
    CostDimension,
    CostReport,
    CostRow,
    read_costs,
)
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.redis.key_names import FleetKeys
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import timestamp_message, usage_message
from workers.gateway.call import ClientCall, require_seconds
from workers.gateway.errors import MalformedError, NotGrantedError

_DAY_S = 86_400
_DEFAULT_LIMIT, _MAX_LIMIT = 1_000, 10_000


class CostReports:
    """The operations on costs.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._turn = asyncio.Lock()

    async def report(self, request: pb.CostReportRequest, call: ClientCall) -> pb.CostReport:
        """Return what the predictions that ended lately cost, as far as the caller may see it.

        The gateway reads one report at a time; further calls wait, as long as calls may take.
        """
        by = request.by or "program"
        if by not in COST_DIMENSIONS:
            raise MalformedError("by", f"it must be one of {', '.join(COST_DIMENSIONS)}")
        since_s = _require_since_s(request)
        if by in ("program", "profile") and not call.grant.covers_all:
            raise NotGrantedError(call.grant.name, GrantScope.READ, "*")
        covers = None if call.grant.covers_all else call.grant.covers
        keys, limit = FleetKeys(self._fleet.namespace), min(request.limit or _DEFAULT_LIMIT, _MAX_LIMIT)
        async with self._turn:
            found = await read_costs(self._fleet.connection, keys, cast("CostDimension", by), since_s, covers)
            return await asyncio.to_thread(_report_message, found, limit)


def count_days(request: pb.CostReportRequest) -> int:
    """Return how many calls a report counts as: one for each day.

    Raises:
        MalformedError: ``since_s`` can't be.
    """
    return 1 + int(_require_since_s(request) // (_DAY_S + 1))


def _require_since_s(request: pb.CostReportRequest) -> float:
    if not request.HasField("since_s"):
        return _DAY_S
    since_s = require_seconds(request.since_s, "since_s")
    if since_s > MAX_SINCE_S:
        raise MalformedError("since_s", f"it must be at most {MAX_SINCE_S}, for which costs are kept")
    return since_s


def _report_message(report: CostReport, limit: int) -> pb.CostReport:
    """Return the message of a report, with at most so many rows."""
    return pb.CostReport(
        by=report.by,
        since=timestamp_message(report.since),
        until=timestamp_message(report.until),
        rows=map(_row_message, report.rows[:limit]),
        total=_row_message(report.total),
        omitted=max(0, len(report.rows) - limit),
    )


def _row_message(row: CostRow) -> pb.CostRow:
    return pb.CostRow(
        **row.group(),
        predictions=row.predictions,
        usage=usage_message(row.usage),
        failed=row.failed,
        failed_usage=usage_message(row.failed_usage),
    )
