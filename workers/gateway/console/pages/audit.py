"""The audit trail: who changed what, from where, and how that ended; newest first."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from starlette.responses import Response

from snakepit_bridge.audit.entries import AuditOutcome
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.console.page import Page, Visit

_SHOWN = 100
# Seconds that the page waits for its entries: a rare one is searched for in the whole trail.
_PATIENCE_S = 0.1
_FILTERS = ("session", "actor", "action", "outcome")
OUTCOME_STATUS = {"done": "ok", "requested": "warn", "refused": "bad", "denied": "bad"}
"""The kinds of status by which outcomes are shown."""


async def show_audit(visit: Visit) -> Response:
    """Show the entries that match the filters, from a position on; they follow by themselves if that takes long."""
    chosen = _choose(visit)
    found: dict[str, Any] = {"entries": None}
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            found = await _list_entries(visit, chosen)
    return visit.render("audit.html.j2", outcomes=list(AuditOutcome), **chosen, **found)


async def show_table(visit: Visit) -> Response:
    """Show the entries, as a fragment."""
    chosen = _choose(visit)
    return visit.render("audit_table.html.j2", **chosen, **await _list_entries(visit, chosen))


def _choose(visit: Visit) -> dict[str, Any]:
    """Return which entries the visitor wants, and from where on."""
    filters = {name: visit.query.get(name, "").strip() for name in _FILTERS}
    if filters["outcome"] not in list(AuditOutcome):
        filters["outcome"] = ""
    given = {name: value for name, value in filters.items() if value}
    return {"filters": filters, "given": given, "before": visit.query.get("before", "")}


async def _list_entries(visit: Visit, chosen: dict[str, Any]) -> dict[str, Any]:
    filters, before = chosen["filters"], chosen["before"]
    request = pb.ListAuditRequest(
        of_session=filters["session"],
        actor=filters["actor"],
        action=filters["action"],
        outcome=filters["outcome"],
        before=before,
        limit=_SHOWN,
    )
    entries = (await visit.call("Audit.List", request)).entries
    return {
        "entries": entries,
        "statuses": OUTCOME_STATUS,
        "is_first": not before,
        "next_before": entries[-1].position if len(entries) == _SHOWN else "",
    }


PAGES = (
    Page("/audit", show_audit, "Audit.List", menu="Audit", section="/audit/", all_sessions=True),
    Page("/audit/table", show_table, "Audit.List", all_sessions=True),
)
