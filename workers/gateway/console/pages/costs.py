"""Limits and cost: how much of each rate limit is used, who waits for it, and what predictions have cost."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.console.page import Page, Visit

SPANS_S = {"1 h": 3_600, "24 h": 86_400, "7 d": 604_800, "30 d": 2_592_000}
"""The spans that a visitor can choose, by their names."""

# What belongs to all sessions takes a token for all of them.
_OF_ALL, _OF_SESSIONS = ("program", "profile", "session", "revision"), ("session", "revision")
_SHOWN = 200
# Seconds that the page waits for the table: millions of sums are added up for thousands of sessions over days.
_PATIENCE_S = 0.1


async def show_costs(visit: Visit) -> Response:
    """Show limits and cost; the table follows by itself where its sums take longer than a page may."""
    chosen = _choose(visit)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            report = await _read_report(visit, chosen)
    except TimeoutError:
        report = None
    limits = await _read_limits(visit) if visit.grant.covers_all else None
    return visit.render("costs.html.j2", report=report, spans=SPANS_S, limits=limits, **chosen)


async def show_table(visit: Visit) -> Response:
    """Show what predictions have cost, as a fragment."""
    chosen = _choose(visit)
    return visit.render("costs_table.html.j2", report=await _read_report(visit, chosen), **chosen)


async def show_live_limits(visit: Visit) -> Response:
    """Show the limits, which move."""
    return visit.render("limits_live.html.j2", limits=await _read_limits(visit))


def _choose(visit: Visit) -> dict[str, Any]:
    """Return what the costs can be grouped by, by what they are, and over which span."""
    groupings = _OF_ALL if visit.grant.covers_all else _OF_SESSIONS
    by, span = visit.query.get("by", ""), visit.query.get("since", "")
    return {
        "groupings": groupings,
        "by": by if by in groupings else groupings[0],
        "span": span if span in SPANS_S else "24 h",
    }


async def _read_report(visit: Visit, chosen: dict[str, Any]) -> pb.CostReport:
    request = pb.CostReportRequest(by=chosen["by"], since_s=SPANS_S[chosen["span"]], limit=_SHOWN)
    return await visit.call("Costs.Report", request)


async def _read_limits(visit: Visit) -> Any:
    return await visit.call("Status.Get", pb.GetStatusRequest(since_s=0))


PAGES = (
    Page("/costs", show_costs, "Costs.Report", menu="Limits and cost", section="/costs/"),
    Page("/costs/table", show_table, "Costs.Report"),
    Page("/costs/limits", show_live_limits, "Status.Get", all_sessions=True, live=True),
)
