"""Limits and cost: how much of each rate limit is used, who waits for it, and what predictions have cost."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.console.page import Page, Visit

SPANS_S = {"1 h": 3_600, "24 h": 86_400, "7 d": 604_800, "30 d": 2_592_000}
"""The spans that a visitor can choose, by their names."""

# What belongs to all sessions takes a token for all of them.
_OF_ALL, _OF_SESSIONS = ("program", "profile", "session", "revision"), ("session", "revision")
_SHOWN = 200


async def show_costs(visit: Visit) -> Response:
    """Show limits and cost."""
    groupings = _OF_ALL if visit.grant.covers_all else _OF_SESSIONS
    by, span = visit.query.get("by", ""), visit.query.get("since", "")
    by, span = by if by in groupings else groupings[0], span if span in SPANS_S else "24 h"
    report = await visit.call("Costs.Report", pb.CostReportRequest(by=by, since_s=SPANS_S[span], limit=_SHOWN))
    return visit.render(
        "costs.html.j2",
        report=report,
        groupings=groupings,
        by=by,
        spans=SPANS_S,
        span=span,
        limits=await _read_limits(visit) if visit.grant.covers_all else None,
    )


async def show_live_limits(visit: Visit) -> Response:
    """Show the limits, which move."""
    return visit.render("limits_live.html.j2", limits=await _read_limits(visit))


async def _read_limits(visit: Visit) -> Any:
    return await visit.call("Status.Get", pb.GetStatusRequest(since_s=0))


PAGES = (
    Page("/costs", show_costs, "Costs.Report", menu="Limits and cost", section="/costs/"),
    Page("/costs/limits", show_live_limits, "Status.Get", all_sessions=True, live=True),
)
