"""The Costs service: what predictions cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.costs.report import (
    COST_DIMENSIONS,
    MAX_SINCE_S,
    CostDimension,
    CostReport,
    CostRow,
    read_costs,
    sum_rows,
)
from snakepit_bridge.costs.usage import LMUsage, format_usd
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.redis.key_names import FleetKeys
from workers.gateway.access.authentication import Grant, GrantScope
from workers.gateway.api.converters import timestamp_message
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

    async def report(self, request: pb.CostReportRequest, call: ClientCall) -> pb.CostReport:
        """Return what the predictions that ended lately cost, as far as the caller may see it."""
        by = request.by or "program"
        if by not in COST_DIMENSIONS:
            raise MalformedError("by", f"it must be one of {', '.join(COST_DIMENSIONS)}")
        since_s = require_seconds(request.since_s, "since_s") if request.HasField("since_s") else _DAY_S
        if since_s > MAX_SINCE_S:
            raise MalformedError("since_s", f"it must be at most {MAX_SINCE_S}, for which costs are kept")
        if by in ("program", "profile") and not call.grant.covers_all:
            raise NotGrantedError(call.grant.name, GrantScope.READ, "*")
        found = await read_costs(
            self._fleet.connection, FleetKeys(self._fleet.namespace), cast("CostDimension", by), since_s
        )
        rows = _visible(found, call.grant)
        shown = rows[: min(request.limit or _DEFAULT_LIMIT, _MAX_LIMIT)]
        return pb.CostReport(
            by=by,
            since=timestamp_message(found.since),
            until=timestamp_message(found.until),
            rows=map(_row_message, shown),
            total=_row_message(sum_rows(rows)),
            omitted=len(rows) - len(shown),
        )


def count_days(request: pb.CostReportRequest) -> int:
    """Return how many calls a report counts as: one for each day."""
    return 1 + int(min(max(request.since_s, 0), MAX_SINCE_S) // (_DAY_S + 1))


def _visible(report: CostReport, grant: Grant) -> Sequence[CostRow]:
    """Return the rows of the sessions that a grant is valid for."""
    return report.rows if grant.covers_all else [row for row in report.rows if grant.covers(row.session)]


def _row_message(row: CostRow) -> pb.CostRow:
    return pb.CostRow(
        **row.group(),
        predictions=row.predictions,
        usage=_usage_message(row.usage),
        failed=row.failed,
        failed_usage=_usage_message(row.failed_usage),
    )


def _usage_message(usage: LMUsage) -> pb.LMUsage:
    return pb.LMUsage(
        calls=usage.calls,
        unpriced_calls=usage.unpriced_calls,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_usd=None if usage.cost_usd is None else format_usd(usage.cost_pico),
    )
